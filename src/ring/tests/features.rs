//! What is newer than the oldest kernel is left out where that is wanted.

use crate::config::{Features, Queues};
use crate::ring::port::Port;

#[test]
fn a_ring_as_on_the_oldest_kernel_uses_nothing_newer() {
    let port = Port::open(Features::Oldest, Queues::default()).expect("a ring");
    assert_eq!(port.newer(), [false; 3]);
}

/// All that is newer and probed for is in this list, so that the test above misses none.
#[test]
fn a_ring_uses_what_this_kernel_has() {
    let newest = Port::open(Features::All, Queues::default())
        .expect("a ring")
        .newer();
    let [no_sqarray, no_iowait, bounded] = newest;
    // They came with 6.6, 6.15 and 6.17, and none has gone again.
    assert!(no_sqarray || !no_iowait, "{newest:?}");
    assert!(no_iowait || !bounded, "{newest:?}");
}
