//! A connection that has far more to say than the others gets no more of a turn
//! than its bound.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::pin::pin;
use std::process::ExitCode;
use std::task::{Context, Poll, Waker};

use evenfall::Cores;
use serde_json::json;

use crate::args::Args;
use crate::process::{Program, is_as_on_oldest_kernel, say};
use crate::promise::promises;
use crate::server::conclude;

promises![a_stream_brings_no_more_than_its_bound_in_a_turn];

/// What the stream sends.
const TOTAL: usize = 32 << 20;

/// What a buffer holds.
const BUFFER: usize = 16 << 10;

/// What one turn may bring of it: `CONN_INBOUND_BYTES`, and the rest of the buffer in which that lies.
/// A kernel older than Linux 6.17 is asked for one buffer.
fn bound() -> usize {
    match is_as_on_oldest_kernel() {
        true => BUFFER,
        false => (128 << 10) + BUFFER,
    }
}

fn a_stream_brings_no_more_than_its_bound_in_a_turn() {
    let mut server = Program::role("brings", &[]);
    let brought = server.json("brought ");
    server.signal(libc::SIGTERM);
    server.finish().report(0).loses_nothing();
    assert_eq!(brought["bytes"], TOTAL);
    let (longest, bound) = (brought["longest"].as_u64(), bound() as u64);
    let longest = longest.expect("a count");
    assert!(longest <= bound, "{longest} bytes in one turn");
    // Less than that would make a stream pay for more turns than it must.
    assert!(longest > bound / 2, "{longest} bytes at most");
}

/// Reads a stream, and counts what is there each time without waiting: what one
/// turn brought.
pub(crate) fn brings(args: Args) -> ExitCode {
    args.finish();
    let result = (|| {
        let mut runtime = crate::process::builder().cores(Cores::Count(1)).build()?;
        let listener = runtime.bind("127.0.0.1:0")?;
        let address = listener.local_addr();
        std::thread::spawn(move || {
            let mut socket = TcpStream::connect(address).expect("the server listens");
            socket.write_all(&vec![1; TOTAL]).expect("it reads");
            socket.shutdown(Shutdown::Write).expect("it is open");
            // Ends when the server closes.
            io::copy(&mut socket, &mut io::sink()).expect("it closes in order");
        });
        runtime.run(move |core| {
            let listener = listener.on(&core);
            let serve = |mut stream: evenfall::net::TcpStream| async move {
                let (mut bytes, mut longest, mut over) = (0, 0, false);
                while !over {
                    let mut turn = stream.recv().await?.len();
                    over = turn == 0;
                    let mut context = Context::from_waker(Waker::noop());
                    while !over {
                        match pin!(stream.recv()).poll(&mut context) {
                            Poll::Ready(chunk) => {
                                let len = chunk?.len();
                                turn += len;
                                over = len == 0;
                            }
                            Poll::Pending => break,
                        }
                    }
                    bytes += turn;
                    longest = longest.max(turn);
                }
                say(&format!(
                    "brought {}",
                    json!({"bytes": bytes, "longest": longest})
                ));
                Ok(())
            };
            async move { listener.serve(serve).await }
        })
    })();
    conclude(result, &json!({}))
}
