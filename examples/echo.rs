//! The echo server: every byte comes back, and SIGTERM loses none.
//!
//! ```text
//! cargo run --release --example echo -- --addr 127.0.0.1:7777 --cores 0-1
//! ```

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use evenfall::{Cores, Report, Runtime, Shutdown};

/// An echo server that stops without losing a byte.
#[derive(Parser)]
#[command(name = "echo")]
struct Args {
    /// Where to listen; port 0 lets the kernel choose.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7777")]
    addr: String,
    /// Processors to use, such as 0,2-3; all this process may use by default.
    #[arg(long, value_name = "LIST", default_value = "all")]
    cores: Cores,
    /// How long all must be quiet before the stop goes on.
    #[arg(long, value_name = "DUR", value_parser = duration, default_value = "0s")]
    quiet: Duration,
    /// The whole stop's budget.
    #[arg(long, value_name = "DUR", value_parser = duration, default_value = "9s")]
    timeout: Duration,
    /// How long to serve on after the signal, not ready any more.
    #[arg(long, value_name = "DUR", value_parser = duration, default_value = "0s")]
    notice: Duration,
    /// What to print about the stop.
    #[arg(long, value_enum, default_value = "text")]
    report: Form,
    /// Where to write the report instead of standard output; a PATH that ends in .svg gets its
    /// picture, and standard output the report all the same.
    #[arg(long, value_name = "PATH")]
    report_file: Option<PathBuf>,
}

/// The forms of a report.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people.
    Text,
    /// For programs: one line.
    Json,
    /// Nothing.
    None,
}

/// A duration such as 200ms, 9s or 0s.
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 200ms, 9s or 1m"))
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if error.use_stderr() => {
            // One line says it all; `--help` says the rest.
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            eprintln!("echo: {}", line.trim_start_matches("error: "));
            return ExitCode::from(2);
        }
        Err(help) => help.exit(),
    };
    let ended = serve(&args).map_err(|error| error.to_string());
    match ended.and_then(|report| tell(&args, &report).map(|()| report)) {
        Ok(report) => report.exit_code(),
        Err(error) => {
            eprintln!("echo: {error}");
            ExitCode::from(2)
        }
    }
}

/// Serves until a signal, and gives the report of the stop.
fn serve(args: &Args) -> evenfall::Result<Report> {
    let shutdown = Shutdown::default()
        .quiet(args.quiet)
        .timeout(args.timeout)
        .notice(args.notice);
    let mut runtime = Runtime::builder()
        .cores(args.cores.clone())
        .shutdown(shutdown)
        .build()?;
    let listener = runtime.bind(args.addr.as_str())?;
    let cores = runtime.cores();
    let accepting = Arc::new(AtomicUsize::new(0));
    runtime.run(move |core| {
        let address = listener.local_addr();
        let listener = listener.on(&core);
        let last = accepting.fetch_add(1, Ordering::Relaxed) + 1 == cores;
        async move {
            if last {
                say_listening(address, cores)?;
            }
            listener
                .serve(|mut stream| async move {
                    while stream.next_request().await? {
                        let chunk = stream.recv().await?;
                        stream.send(chunk).await?;
                    }
                    Ok(())
                })
                .await
        }
    })
}

/// Says that every core accepts.
fn say_listening(address: std::net::SocketAddr, cores: usize) -> io::Result<()> {
    let plural = if cores == 1 { "" } else { "s" };
    let pid = std::process::id();
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "listening on {address} ({cores} core{plural}, pid {pid})"
    )?;
    out.flush()
}

/// Prints or writes the report.
fn tell(args: &Args, report: &Report) -> Result<(), String> {
    let text = match args.report {
        Form::None => None,
        Form::Text => Some(format!("{report}\n")),
        Form::Json => Some(format!("{}\n", report.to_json())),
    };
    let is_picture = |path: &&PathBuf| path.extension().is_some_and(|ending| ending == "svg");
    let picture = args.report_file.as_ref().filter(is_picture);
    if let Some(path) = picture {
        write_file(path, &report.to_svg())?;
    }
    let Some(text) = text else {
        return Ok(());
    };
    match &args.report_file {
        Some(path) if picture.is_none() => write_file(path, &text),
        _ => io::stdout()
            .write_all(text.as_bytes())
            .map_err(|error| format!("cannot print the report: {error}")),
    }
}

/// Writes a report, in whatever form, to its file.
fn write_file(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text)
        .map_err(|error| format!("cannot write the report to {}: {error}", path.display()))
}
