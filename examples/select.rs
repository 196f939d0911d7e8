//! A server that stops itself by its own protocol: a client that sends `stop` ends it.
//!
//! ```text
//! cargo run --release --example select
//! ```
//! The loop selects over `accept` and a channel of its own. Dropping a pending `accept` loses no
//! connection, so nothing has to be pinned, fused or remembered between the rounds.

use std::cell::Cell;
use std::io;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use evenfall::net::{TcpListener, TcpStream};
use evenfall::{Core, Cores, Report, Runtime, spawn};
use futures_util::future::{Either, select};

fn main() -> ExitCode {
    match serve() {
        Ok(report) => {
            println!("{report}");
            report.exit_code()
        }
        Err(error) => {
            eprintln!("select: {error}");
            ExitCode::from(2)
        }
    }
}

fn serve() -> evenfall::Result<Report> {
    let mut runtime = Runtime::builder().cores(Cores::Count(1)).build()?;
    let listener = runtime.bind("127.0.0.1:0")?;
    println!("listening on {}", listener.local_addr());
    runtime.run(move |core| {
        let listener = listener.on(&core);
        accept_and_count(core, listener)
    })
}

/// Accepts until the stop has drained the listener, and says now and then how many came.
async fn accept_and_count(core: Core, listener: TcpListener) -> io::Result<()> {
    let count = Rc::new(Cell::new(0u64));
    loop {
        let accept = std::pin::pin!(listener.accept());
        let pause = evenfall::time::sleep(Duration::from_secs(5));
        match select(accept, pause).await {
            Either::Left((accepted, _)) => match accepted? {
                Some(stream) => {
                    count.set(count.get() + 1);
                    drop(spawn(talk(core.clone(), stream)));
                }
                // The stop has drained the listener: nobody is left behind in it.
                None => return Ok(()),
            },
            Either::Right(((), _)) => println!("{} connections so far", count.get()),
        }
    }
}

/// Answers lines; the line `stop` stops the server, and is answered, too.
async fn talk(core: Core, mut stream: TcpStream) -> io::Result<()> {
    while stream.next_request().await? {
        let chunk = stream.recv().await?;
        if chunk.starts_with(b"stop") {
            stream.send("stopping\n").await?;
            core.handle().shutdown();
        } else {
            stream.send(chunk).await?;
        }
    }
    Ok(())
}
