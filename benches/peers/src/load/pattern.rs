//! The bytes of a stream: at every offset known, and never copied.

use std::sync::OnceLock;

/// After so many bytes the stream repeats: a prime, so that no size of a message hits it.
const PERIOD: u64 = 65_521;

/// The longest piece that can be asked for.
pub const LONGEST: usize = 64 * 1024;

/// The bytes from `offset` of the stream that `salt` names.
pub fn at(salt: u64, offset: u64, len: usize) -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let byte = |index: u64| (index % PERIOD).wrapping_mul(2_654_435_761) >> 11;
        let count = PERIOD + LONGEST as u64;
        (0..count).map(|index| byte(index) as u8).collect()
    });
    let start = ((salt + offset) % PERIOD) as usize;
    &table[start..start + len]
}

/// The stream of one connection.
pub fn salt(connection: usize) -> u64 {
    connection as u64 * 7_919
}
