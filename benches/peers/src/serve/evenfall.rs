//! This project, as in its example.

use std::io;

use evenfall::net::TcpStream;
use evenfall::{Cores, Report, Runtime};

use crate::serve::{Mode, Plan, answer_questions, receipt, say_ready};

/// Gives the report, for the stop bench.
pub(super) fn serve(plan: &Plan) -> io::Result<Report> {
    run(plan).map_err(io::Error::other)
}

fn run(plan: &Plan) -> evenfall::Result<Report> {
    let mode = plan.mode;
    let builder = Runtime::builder().cores(Cores::List(plan.cpus.clone()));
    let mut runtime = if plan.alone {
        builder.signals([]).build()?
    } else {
        builder.build()?
    };
    let listener = runtime.bind("127.0.0.1:0")?;
    if !plan.alone {
        answer_questions();
    }
    runtime.run(move |core| {
        let first = core.index() == 0;
        let address = listener.local_addr();
        let listener = listener.on(&core);
        async move {
            if first {
                say_ready(address)?;
            }
            match mode {
                Mode::Echo => listener.serve(echo).await,
                Mode::Sink => listener.serve(sink).await,
            }
        }
    })
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    while stream.next_request().await? {
        let chunk = stream.recv().await?;
        stream.send(chunk).await?;
    }
    Ok(())
}

async fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut taken = 0;
    loop {
        let chunk = stream.recv().await?;
        if chunk.is_empty() {
            return stream.write_all(&receipt(taken)).await;
        }
        taken += chunk.len() as u64;
    }
}
