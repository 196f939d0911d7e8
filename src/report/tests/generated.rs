//! Reports of every shape from a seeded generator.
#![forbid(unsafe_code)]

use super::samples::{hook, straggler};
use crate::report::words::{WIDTH, columns};
use crate::report::*;

/// How many reports each test looks at.
pub(super) const SEEDS: u64 = 250;

/// More lines than this no report takes, whatever is in it.
const MOST_LINES: usize = 500;

#[test]
fn no_line_is_wider_than_eighty_columns() {
    for seed in 0..SEEDS {
        let report = Dice::new(seed).report();
        let text = report.to_string();
        for line in text.lines() {
            assert!(
                columns(line) <= WIDTH,
                "seed {seed}, {} columns: {line}",
                columns(line)
            );
        }
    }
}

#[test]
fn no_report_is_endless() {
    for seed in 0..SEEDS {
        let lines = Dice::new(seed).report().to_string().lines().count();
        assert!(
            (1..MOST_LINES).contains(&lines),
            "seed {seed}: {lines} lines"
        );
    }
}

#[test]
fn no_name_steers_the_terminal() {
    for seed in 0..SEEDS {
        let text = Dice::new(seed).report().to_string();
        let steering = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!text.contains(steering), "seed {seed}: {text:?}");
    }
}

#[test]
fn no_line_ends_in_a_space() {
    for seed in 0..SEEDS {
        let text = Dice::new(seed).report().to_string();
        let trailing = text.lines().find(|line| line.ends_with(' '));
        assert_eq!(trailing, None, "seed {seed}");
    }
}

#[test]
fn every_generated_report_is_one_line_of_json() {
    for seed in 0..SEEDS {
        let json = Dice::new(seed).report().to_json();
        assert!(!json.contains('\n'), "seed {seed}");
        let parsed: serde_json::Value = serde_json::from_str(&json).expect("valid JSON");
        assert!(parsed.is_object(), "seed {seed}");
    }
}

#[test]
fn the_verdict_is_never_better_than_that_of_any_core() {
    for seed in 0..SEEDS {
        let report = Dice::new(seed).report();
        let whole = verdict_of(&report);
        for core in &report.cores {
            let alone = Report {
                cores: vec![core.clone()],
                ..Report::default()
            };
            assert!(verdict_of(&alone) <= whole, "seed {seed}");
        }
    }
}

/// Names as users, peers and attackers make them.
const NAMES: [&str; 13] = [
    "",
    "flush",
    "a name of many words that goes on and on until no terminal can hold it in one line",
    "ein_sehr_langer_name_ohne_ein_einziges_leerzeichen_der_nirgends_umbrochen_werden_kann_und",
    "データベース接続を閉じる処理がここで実行されますのでしばらくお待ちください今すぐ終わりますから",
    "🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀",
    "\u{1b}[31mred\u{1b}[0m\r\nsecond line\ttab",
    "\u{202e}backwards\u{200b}\u{feff}",
    "<script>alert(\"1\")</script> & 'quotes' ]]> \u{0}\u{fffe}\u{ffff}",
    "e\u{301}\u{301}\u{301}\u{301}te\u{301}",
    "[2001:db8:85a3:8d3:1319:8a2e:370:7348]:65535",
    "/a/base/of/some/depth/services/gateway/src/handlers/upload/multipart.rs:1042:17",
    " \n \t ",
];

/// A seeded source of reports; the same seed makes the same report.
pub(super) struct Dice {
    /// Never zero, or it would stay zero.
    state: u64,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }

    /// Mostly nothing, often little, now and then all there is.
    fn number(&mut self) -> u64 {
        match self.below(8) {
            0..=3 => 0,
            4 => self.below(10),
            5 => self.below(1_000_000),
            6 => self.next(),
            _ => u64::MAX,
        }
    }

    fn time(&mut self) -> f64 {
        match self.below(10) {
            0..=2 => 0.0,
            3..=6 => ms(self.below(20_000_000_000)),
            7 => ms(self.next()),
            8 => ms_from(self.below(1_000_000_000), 0),
            _ => [f64::MAX, f64::INFINITY, f64::NAN, 1e-300][self.below(4) as usize],
        }
    }

    fn name(&mut self) -> String {
        NAMES[self.below(NAMES.len() as u64) as usize].to_owned()
    }

    fn name_or_none(&mut self) -> Option<String> {
        (self.below(2) == 0).then(|| self.name())
    }

    /// Mostly a few, now and then a hundred.
    fn many<T>(&mut self, mut one: impl FnMut(&mut Dice) -> T) -> Vec<T> {
        let n = match self.below(12) {
            0..=3 => 0,
            4..=10 => self.below(4),
            _ => self.below(100),
        };
        (0..n).map(|_| one(self)).collect()
    }

    pub(super) fn report(&mut self) -> Report {
        let mut report = Report {
            triggers: self.many(Dice::trigger),
            elapsed_ms: self.time(),
            suspended_ms: self.time(),
            phases: self.many(Dice::phase),
            cores: self.many(Dice::core),
            hooks: self.many(Dice::hook),
            stragglers: self.many(Dice::straggler),
            stalls: self.many(Dice::stall),
            stalls_total: self.number(),
            foreign_letters: self.number(),
            ..Report::default()
        };
        report.config.timeout_ms = self.time();
        report.deadlines.drain_ms = self.time();
        report.deadlines.hooks_ms = self.time();
        report.deadlines.hard_ms = self.time();
        report.verdict = verdict_of(&report);
        report
    }

    fn trigger(&mut self) -> Trigger {
        let at_ms = self.time();
        match self.below(6) {
            0 => Trigger::new(TriggerKind::Api, at_ms),
            1 => Trigger::new(TriggerKind::MainEnded, at_ms),
            2 => Trigger::new(TriggerKind::MainFailed, at_ms),
            3 => Trigger::signal(self.next() as i32, Some(u32::MAX), at_ms),
            _ => Trigger::signal(15, None, at_ms),
        }
    }

    fn phase(&mut self) -> PhaseSpan {
        let known = ["notice", "draining", "hooks", "closing"][self.below(4) as usize];
        let name = match self.below(8) {
            0 => self.name(),
            _ => known.to_owned(),
        };
        PhaseSpan::new(&name, self.time(), self.time(), &self.name())
    }

    fn hook(&mut self) -> HookReport {
        let outcome = [
            HookOutcome::Ok,
            HookOutcome::Failed,
            HookOutcome::Panicked,
            HookOutcome::Overran,
        ][self.below(4) as usize];
        let error = self.name_or_none();
        let us = self.below(10_000_000);
        let mut hook = hook(&self.name(), outcome, error.as_deref(), us);
        hook.start_ms = self.time();
        hook
    }

    fn straggler(&mut self) -> Straggler {
        let site = self.name_or_none();
        straggler(&self.name(), &self.name(), site.as_deref(), &self.name())
    }

    fn listener(&mut self) -> ListenerReport {
        let gate = [Gate::None, Gate::Bpf, Gate::MinTtl][self.below(3) as usize];
        let why = [NoGate::Shared, NoGate::Refused][self.below(2) as usize];
        ListenerReport {
            addr: self.name(),
            gate,
            no_gate: (gate == Gate::None).then_some(why),
            window_ms: self.time(),
            drained: self.number(),
            pauses: self.below(3),
            paused_by: self.name_or_none(),
            policy: (self.below(2) == 0).then(|| self.policy()),
        }
    }

    fn policy(&mut self) -> PolicyReport {
        let cut = self.below(2) == 0;
        let mut time_or_none = || (self.below(2) == 0).then(|| self.time());
        PolicyReport {
            cut,
            idle_grace_ms: time_or_none(),
            spread_ms: time_or_none(),
            linger_ms: time_or_none(),
        }
    }

    fn stall(&mut self) -> StallReport {
        StallReport {
            core: self.number() as usize,
            task: self.name(),
            spawned_at: self.name_or_none(),
            began_ms: self.time(),
            lasted_ms: self.time(),
            over: self.below(2) == 0,
            state: self.name(),
            wchan: self.name_or_none(),
        }
    }

    fn stuck(&mut self) -> Stuck {
        Stuck {
            task: self.name(),
            spawned_at: self.name_or_none(),
            since_ms: self.time(),
            state: self.name(),
            wchan: self.name_or_none(),
        }
    }

    fn core(&mut self) -> CoreReport {
        let outcome = match self.below(8) {
            0 => CoreOutcome::Failed,
            1 => CoreOutcome::Stuck,
            _ => CoreOutcome::Finished,
        };
        let mut core = CoreReport {
            core: self.number() as usize,
            cpu: self.number() as usize,
            outcome,
            error: (outcome == CoreOutcome::Failed).then(|| self.name()),
            phases: self.many(Dice::phase),
            open_connections: self.many(|dice| (dice.time(), dice.number())),
            listeners: self.many(Dice::listener),
            hooks: self.many(Dice::hook),
            stragglers: self.many(Dice::straggler),
            stuck: (outcome == CoreOutcome::Stuck).then(|| self.stuck()),
            ..CoreReport::default()
        };
        self.fill(&mut core);
        core
    }

    fn fill(&mut self, core: &mut CoreReport) {
        let counters: [&mut u64; 27] = [
            &mut core.tasks.spawned,
            &mut core.tasks.panicked,
            &mut core.tasks.dropped,
            &mut core.tasks.background_dropped,
            &mut core.timers.fired,
            &mut core.connections.accepted_total,
            &mut core.connections.at_start,
            &mut core.connections.accepted,
            &mut core.connections.drained,
            &mut core.connections.closed_by_peer,
            &mut core.connections.closed_by_handler,
            &mut core.connections.aborted,
            &mut core.connections.peer_reset,
            &mut core.connections.forced,
            &mut core.connections.abandoned,
            &mut core.requests.begun,
            &mut core.requests.answered,
            &mut core.bytes.received,
            &mut core.bytes.sent,
            &mut core.bytes.unsent,
            &mut core.bytes.unacked,
            &mut core.bytes.aborted,
            &mut core.ops.submitted,
            &mut core.ops.leaked,
            &mut core.letters.sent,
            &mut core.turns.count,
            &mut core.turns.most_steps,
        ];
        for counter in counters {
            *counter = self.number();
        }
        core.turns.longest_ms = self.time();
        core.turns.longest_cpu_ms = self.time();
    }
}
