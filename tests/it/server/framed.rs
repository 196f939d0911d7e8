//! The server of the length-prefixed protocol; see `wire`.
#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use evenfall::net::TcpStream;
use evenfall::time::sleep;
use serde_json::json;

use super::{Setup, conclude, host};
use crate::args::Args;
use crate::sys;
use crate::wire::{REQUEST_HEADER, Request};

/// What the handlers count themselves, over all cores.
#[derive(Debug, Default)]
struct Counted {
    /// Handlers begun.
    connections: AtomicU64,
    /// Requests read whole.
    requests: AtomicU64,
    /// Answers that the connection took whole.
    answers: AtomicU64,
}

/// Answers every request; one that asks for `delay` milliseconds waits, and
/// one that asks for `panic_at` milliseconds makes its handler panic. `fds`
/// limits the descriptors of the process.
pub(crate) fn framed(mut args: Args) -> ExitCode {
    let panic_at: Option<u32> = args.take("panic_at");
    if let Some(most) = args.take("fds") {
        sys::limit_fds(most).expect("a limit may be lowered");
    }
    let counted = Arc::new(Counted::default());
    let in_handlers = Arc::clone(&counted);
    let result = host(Setup::only(args), move |_core, listener| {
        let counted = Arc::clone(&in_handlers);
        async move {
            let handler = move |stream| answer_requests(stream, Arc::clone(&counted), panic_at);
            listener.serve(handler).await
        }
    });
    let number = |n: &AtomicU64| n.load(Ordering::Relaxed);
    let facts = json!({
        "connections": number(&counted.connections),
        "requests": number(&counted.requests),
        "answers": number(&counted.answers),
    });
    conclude(result, &facts)
}

async fn answer_requests(
    mut stream: TcpStream,
    counted: Arc<Counted>,
    panic_at: Option<u32>,
) -> io::Result<()> {
    counted.connections.fetch_add(1, Ordering::Relaxed);
    while stream.next_request().await? {
        let (request, body) = read_request(&mut stream).await?;
        counted.requests.fetch_add(1, Ordering::Relaxed);
        assert_ne!(Some(request.delay_ms), panic_at, "as the request asks");
        if request.delay_ms > 0 {
            sleep(Duration::from_millis(request.delay_ms.into())).await;
        }
        stream.write_all(&request.answer(&body)).await?;
        counted.answers.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Reads one whole request.
pub(crate) async fn read_request(stream: &mut TcpStream) -> io::Result<(Request, Vec<u8>)> {
    let mut header = [0; REQUEST_HEADER];
    stream.read_exact(&mut header).await?;
    let request = Request::read(&header);
    let mut body = vec![0; request.size as usize];
    stream.read_exact(&mut body).await?;
    Ok((request, body))
}
