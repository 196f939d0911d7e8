//! One connection, one way: many bytes up, eight back.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::ExitCode;

use serde_json::json;

use crate::args::Args;
use crate::process::{WATCHDOG, say};
use crate::wire::Table;

/// Sends `bytes` bytes of the table, ends its side, and expects the number of
/// bytes that the server found right.
pub(crate) fn upload(mut args: Args) -> ExitCode {
    let address: String = args.take("addr").expect("addr is where the server listens");
    let bytes: u64 = args.take("bytes").expect("bytes is how many to send");
    args.finish();
    let table = Table::new();
    let mut stream = TcpStream::connect(address).expect("the server accepts");
    stream
        .set_read_timeout(Some(WATCHDOG))
        .expect("a length of time that is not zero");
    let mut sent = 0;
    while sent < bytes {
        let piece = table.piece(sent, (bytes - sent).min(65_536) as usize);
        stream.write_all(piece).expect("the server reads on");
        sent += piece.len() as u64;
    }
    stream
        .shutdown(Shutdown::Write)
        .expect("the server is there");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an end by FIN");
    let right = answer.try_into().map(u64::from_le_bytes);
    say(&format!(
        "done {}",
        json!({ "sent": sent, "right": right.ok() })
    ));
    ExitCode::SUCCESS
}
