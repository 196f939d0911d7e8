//! The middle of a path: keeps each frame for a while and passes it on.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::Read;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::process::say;
use crate::sys::{Wire, wait_for_any};

/// One way through the path.
#[derive(Debug, Default)]
struct Lane {
    /// Frames under way, and when each is due; the oldest first.
    under_way: VecDeque<(Instant, Vec<u8>)>,
    /// Whether what comes vanishes.
    drops: bool,
}

impl Lane {
    /// Takes in all that has come by `from`.
    fn fill(&mut self, from: &mut Wire, delay: Duration) {
        while let Some((frame, age)) = from.take() {
            if !self.drops {
                let due = Instant::now() + delay.saturating_sub(age);
                self.under_way.push_back((due, frame));
            }
        }
    }

    /// Passes on all that is due.
    fn pass(&mut self, to: &Wire) {
        let now = Instant::now();
        while self.under_way.front().is_some_and(|(due, _)| *due <= now) {
            let (_, frame) = self.under_way.pop_front().expect("it is in front");
            to.put(&frame).expect("the wire takes a frame");
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.under_way.front().map(|(due, _)| *due)
    }
}

/// Forwards between the interfaces `mc` and `ms` until standard input ends.
pub(crate) fn forwarder(mut args: Args) -> ExitCode {
    let delay = args.take("delay_us").map(Duration::from_micros);
    let delay = delay.expect("delay_us is the delay of one way");
    args.finish();
    let tap = |name| match Wire::tap(name) {
        Ok(wire) => wire,
        Err(error) => panic!("{name} cannot be tapped (CONFIG_PACKET, CAP_NET_RAW): {error}"),
    };
    let (mut clients, mut servers) = (tap("mc"), tap("ms"));
    let (mut to_server, mut to_client) = (Lane::default(), Lane::default());
    say("forwards");
    loop {
        let due = [&to_server, &to_client].map(Lane::next_due);
        let due = due.into_iter().flatten().min();
        let within = due.map(|due| due.saturating_duration_since(Instant::now()));
        let fds = [clients.fd(), servers.fd(), 0];
        let ready = wait_for_any(&fds, within).expect("descriptors can be waited for");
        to_server.fill(&mut clients, delay);
        to_client.fill(&mut servers, delay);
        to_server.pass(&servers);
        to_client.pass(&clients);
        if ready[2] && !obey(&mut to_server, &mut to_client) {
            return ExitCode::SUCCESS;
        }
    }
}

/// Does what standard input says; whether there will be more.
fn obey(to_server: &mut Lane, to_client: &mut Lane) -> bool {
    let mut bytes = [0; 256];
    let count = std::io::stdin().read(&mut bytes).unwrap_or(0);
    for line in String::from_utf8_lossy(&bytes[..count]).lines() {
        match line {
            "drop to_client" => to_client.drops = true,
            "drop both" => (to_client.drops, to_server.drops) = (true, true),
            other => panic!("what is {other:?}?"),
        }
        say("drops");
    }
    count > 0
}
