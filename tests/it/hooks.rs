//! Hooks: last registered first, each within its budget, and whatever becomes
//! of one, the next one runs.
#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use evenfall::net::TcpStream;
use evenfall::spawn;
use evenfall::time::sleep;
use serde_json::json;

use crate::args::Args;
use crate::process::{Program, say};
use crate::promise::promises;
use crate::server::{Setup, answer_all, conclude, host};

promises![
    hooks_run_last_registered_first,
    a_hook_that_fails_panics_or_overruns_is_recorded_and_the_next_runs,
    a_hook_may_do_io_and_spawn,
    a_hook_registered_by_a_hook_runs_next,
    hooks_of_several_cores_run_side_by_side,
    a_hook_that_was_removed_does_not_run,
    an_exit_inside_a_hook_ends_the_process_at_once,
    a_stop_called_for_again_by_a_core_and_a_hook_is_one_stop,
];

/// Runs the role `hooks` with `words` and gives (name, outcome) of its hooks.
#[track_caller]
fn hooks_of(words: &[&str], code: i32) -> Vec<(String, String)> {
    let mut server = Program::role("hooks", words);
    server.address();
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    let report = ended.report(code);
    report.leaves_nothing();
    let hooks = report.hooks();
    // Each hook says its name when it begins, in the report's order.
    let began = ended
        .said
        .iter()
        .filter_map(|line| line.strip_prefix("hook "));
    let named: Vec<&str> = hooks.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(began.collect::<Vec<_>>(), named);
    hooks
}

fn words(hooks: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |&(name, outcome): &(&str, &str)| (name.to_owned(), outcome.to_owned());
    hooks.iter().map(owned).collect()
}

fn hooks_run_last_registered_first() {
    let hooks = hooks_of(&["cores=1", "hooks=one,two,three"], 0);
    let expected = [("three", "ok"), ("two", "ok"), ("one", "ok")];
    assert_eq!(hooks, words(&expected));
}

fn a_hook_that_fails_panics_or_overruns_is_recorded_and_the_next_runs() {
    let hooks = hooks_of(&["cores=1", "hooks=first,fails,panics,overruns,last"], 80);
    let expected = [
        ("last", "ok"),
        ("overruns", "overran"),
        ("panics", "panicked"),
        ("fails", "failed"),
        ("first", "ok"),
    ];
    assert_eq!(hooks, words(&expected));
}

fn a_hook_may_do_io_and_spawn() {
    let hooks = hooks_of(&["cores=1", "hooks=connects"], 0);
    assert_eq!(hooks, words(&[("connects", "ok")]));
}

fn a_hook_registered_by_a_hook_runs_next() {
    let hooks = hooks_of(&["cores=1", "hooks=first,registers"], 0);
    let expected = [
        ("registers", "ok"),
        ("registered late", "ok"),
        ("first", "ok"),
    ];
    assert_eq!(hooks, words(&expected));
}

/// Each waits for the other: one after the other, both would overrun.
fn hooks_of_several_cores_run_side_by_side() {
    let mut server = Program::role("hooks", &["cores=2", "hooks=meets"]);
    server.address();
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    report.loses_nothing();
    assert_eq!(report.hooks(), words(&[("meets", "ok"), ("meets", "ok")]));
}

fn a_hook_that_was_removed_does_not_run() {
    let hooks = hooks_of(&["cores=1", "hooks=first,removed,last"], 0);
    assert_eq!(hooks, words(&[("last", "ok"), ("first", "ok")]));
}

/// Other cores, tasks and hooks are there, and nobody waits for them.
fn an_exit_inside_a_hook_ends_the_process_at_once() {
    let mut server = Program::role("hooks", &["cores=2", "hooks=first,exits"]);
    server.address();
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    ended.exited(7);
    assert!(!ended.said.iter().any(|line| line.starts_with("report ")));
    assert!(!ended.said.iter().any(|line| line == "hook first"));
}

fn a_stop_called_for_again_by_a_core_and_a_hook_is_one_stop() {
    let mut server = Program::role("hooks", &["cores=1", "hooks=calls", "calls=true"]);
    server.address();
    let report = server.finish().report(0);
    report.loses_nothing();
    let phases = report.part("phases").as_array().expect("a list");
    let names: Vec<_> = phases.iter().map(|phase| &phase["name"]).collect();
    assert_eq!(names, ["draining", "hooks", "closing"]);
    assert_eq!(report.part("triggers")[0]["kind"], "api");
    assert_eq!(report.hooks(), words(&[("calls", "ok")]));
}

/// An echo server with the hooks that `hooks` lists, by what they do.
pub(crate) fn hooks(mut args: Args) -> ExitCode {
    let names: String = args.take("hooks").expect("hooks is a list of names");
    let calls = args.number("calls", false);
    let result = host(Setup::only(args), move |core, listener| {
        let names = names.clone();
        async move {
            for name in names.split(',') {
                let (does, of_hook) = (name.to_owned(), core.clone());
                let budget = match name {
                    "overruns" => Duration::from_millis(100),
                    "meets" => Duration::from_secs(3),
                    _ => Duration::from_secs(1),
                };
                let hook = async move || run(&does, of_hook).await;
                let hook = core.on_shutdown(name, budget, hook);
                if name == "removed" {
                    assert!(hook.remove(), "it has not run");
                }
            }
            if calls {
                core.handle().shutdown();
                core.handle().shutdown();
            }
            listener.serve(answer_all).await
        }
    });
    conclude(result, &json!({}))
}

/// What the hook of this name does.
async fn run(name: &str, core: evenfall::Core) -> io::Result<()> {
    say(&format!("hook {name}"));
    match name {
        "fails" => Err(io::Error::other("the disk is full")),
        "panics" => panic!("as its name says"),
        "overruns" => {
            sleep(Duration::from_secs(30)).await;
            Ok(())
        }
        "meets" => meet(core.handle().cores()).await,
        "exits" => std::process::exit(7),
        "calls" => {
            core.handle().shutdown();
            Ok(())
        }
        "connects" => talk_to_a_foreign_server().await,
        "registers" => {
            let late = async || {
                say("hook registered late");
                Ok::<(), io::Error>(())
            };
            core.on_shutdown("registered late", Duration::from_secs(1), late);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// How many hooks have come to their meeting.
static MET: AtomicUsize = AtomicUsize::new(0);

/// Returns when so many have come.
async fn meet(all: usize) -> io::Result<()> {
    MET.fetch_add(1, Ordering::AcqRel);
    while MET.load(Ordering::Acquire) < all {
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// A round trip to a plain listener of this process, in a spawned task.
async fn talk_to_a_foreign_server() -> io::Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let answers = std::thread::spawn(move || -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut question = [0; 4];
        io::Read::read_exact(&mut stream, &mut question)?;
        io::Write::write_all(&mut stream, &question)
    });
    let asks = spawn(async move {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"last").await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"last");
        stream.close().await
    });
    asks.await.map_err(io::Error::other)??;
    answers
        .join()
        .map_err(|_| io::Error::other("the thread panicked"))?
}
