//! The echo server: chunks of the ring, and straight back.
#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;

use evenfall::net::TcpStream;
use serde_json::json;

use super::{Setup, conclude, host};
use crate::args::Args;

pub(crate) fn echo(args: Args) -> ExitCode {
    let result = host(Setup::only(args), |_core, listener| async move {
        listener.serve(answer_all).await
    });
    conclude(result, &json!({}))
}

/// The handler of an echo connection.
pub(crate) async fn answer_all(mut stream: TcpStream) -> io::Result<()> {
    while stream.next_request().await? {
        let chunk = stream.recv().await?;
        stream.send(chunk).await?;
    }
    Ok(())
}

/// The same without `next_request`: it never says when it is between two.
pub(crate) async fn answer_plainly(mut stream: TcpStream) -> io::Result<()> {
    loop {
        let chunk = stream.recv().await?;
        if chunk.is_empty() {
            return Ok(());
        }
        stream.send(chunk).await?;
    }
}
