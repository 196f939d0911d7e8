//! What connections take of the heap while they are idle, and what they leave there.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;

use crate::args::Args;
use crate::process::{Program, WATCHDOG};
use crate::promise::{Count, heavy, load, promises};
use crate::server::{Setup, conclude, host};

promises![
    an_idle_connection_takes_300_bytes_of_the_heap_at_most,
    twenty_thousand_connections_that_came_and_went_leave_nothing,
];

/// Idle connections at once.
const CROWD: i64 = 10_000;

/// What one of them may take: its record, its task with the handler, and its share of what is kept
/// for those at work. The kernel's part is not the heap's.
const BYTES_EACH: i64 = 300;

/// Connections that come and go in one round.
const ROUND: i64 = 1_000;

/// What a server's allocator has lent out.
#[derive(Clone, Copy, Debug)]
struct Lent {
    blocks: i64,
    bytes: i64,
}

impl Lent {
    #[track_caller]
    fn by(server: &mut Program) -> Lent {
        server.tell("lent");
        let json = server.json("lent ");
        let number = |name: &str| json[name].as_i64().expect("a number");
        Lent {
            blocks: number("blocks"),
            bytes: number("bytes"),
        }
    }

    fn since(self, before: Lent) -> Lent {
        Lent {
            blocks: self.blocks - before.blocks,
            bytes: self.bytes - before.bytes,
        }
    }
}

fn an_idle_connection_takes_300_bytes_of_the_heap_at_most() {
    let _alone = heavy();
    let mut server = Program::role(
        "as_the_example",
        &["cores=1", "timeout=90000", "stuck_after=90000"],
    );
    let address = server.address();
    come_and_go(&address, 100);
    let before = Lent::by(&mut server);
    // In some steps: what is kept for as many as are at work at once is no idle connection's.
    let words = format!("connections={ROUND} each=1 warm={ROUND} end=stay fds=1500");
    let crowd: Vec<Program> = (0..CROWD / ROUND)
        .map(|_| {
            let mut some = load(&address, &words);
            some.line("warm");
            some
        })
        .collect();
    let with = Lent::by(&mut server).since(before);
    assert!(with.bytes <= BYTES_EACH * CROWD, "{with:?}");
    // One is the task; and few have the room for bytes that those at work need.
    assert!(with.blocks <= CROWD + CROWD / 8, "{with:?}");
    server.signal(libc::SIGTERM);
    crowd
        .into_iter()
        .for_each(|some| Count::of(some).ended_well());
    server.finish().report(0).loses_nothing();
}

/// Counted in blocks and bytes: a task, a slot, a lane or a waker that stayed would be there 20,000
/// times.
fn twenty_thousand_connections_that_came_and_went_leave_nothing() {
    let _alone = heavy();
    let mut server = Program::role("as_the_example", &["cores=1"]);
    let address = server.address();
    come_and_go(&address, 2 * ROUND);
    let before = Lent::by(&mut server);
    for _ in 0..20 {
        come_and_go(&address, ROUND);
    }
    // A server is a little behind its clients. Each question is a round trip.
    let until = Instant::now() + WATCHDOG;
    loop {
        let left = Lent::by(&mut server).since(before);
        // Less than one block for a hundred connections, and one byte for each.
        if left.blocks < 20 * ROUND / 100 && left.bytes < 20 * ROUND {
            break;
        }
        assert!(Instant::now() < until, "left behind: {left:?}");
    }
    server.signal(libc::SIGTERM);
    server.finish().report(0).leaves_nothing();
}

/// So many connect, ask once, and end.
#[track_caller]
fn come_and_go(address: &str, connections: i64) {
    let words = format!("connections={connections} each=1 fds={}", connections + 100);
    Count::of(load(address, &words)).ended_well();
}

/// The echo server with the handler of the example. As an `async fn` it would have its stream twice:
/// once as it was given, once as it is used.
pub(crate) fn as_the_example(args: Args) -> ExitCode {
    let result = host(Setup::only(args), |_core, listener| async move {
        listener
            .serve(|mut stream| async move {
                while stream.next_request().await? {
                    let chunk = stream.recv().await?;
                    stream.send(chunk).await?;
                }
                Ok(())
            })
            .await
    });
    conclude(result, &json!({}))
}
