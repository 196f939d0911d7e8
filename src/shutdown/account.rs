//! The account of a stop: the report, put together from the cores' last words and from what the
//! coordinator has noted.

#![forbid(unsafe_code)]

use super::autopsy;
use super::coordinator::Coordinator;
use crate::io::listening::TurnedAway;
use crate::report::{
    ConfigReport, CoreOutcome, CoreReport, DeadlinesReport, Letters, PhaseSpan, Report, Straggler,
    Trigger, ms, ms_from, verdict_of,
};
use crate::shared::Station;
use crate::sync::atomic::Ordering;

impl Coordinator {
    /// Puts the report together.
    pub(super) fn report(self) -> Report {
        let start_ns = self.machine.instants().map_or(0, |instants| instants.start);
        let now_ns = self.shared.clock.now_ns();
        let cores = self.core_reports(start_ns, now_ns);
        let stalls = self.stalls.as_ref();
        let (stalls_total, stalls) =
            stalls.map_or_else(Default::default, |watch| watch.report(start_ns));
        let mut report = Report {
            triggers: self
                .triggers
                .iter()
                .map(|(trigger, at_ns)| Trigger {
                    at_ms: ms_from(start_ns, *at_ns),
                    ..trigger.clone()
                })
                .collect(),
            config: self.config(),
            deadlines: self.deadlines(),
            elapsed_ms: ms_from(start_ns, now_ns),
            suspended_ms: ms(self.machine.suspended_ns()),
            phases: self
                .machine
                .spans()
                .iter()
                .map(|span| {
                    let end_ns = span.end.unwrap_or(now_ns);
                    PhaseSpan::new(
                        span.phase.name(),
                        ms_from(start_ns, span.start),
                        ms_from(start_ns, end_ns),
                        span.ended_by,
                    )
                })
                .collect(),
            cores,
            hooks: self
                .shared
                .process_hooks
                .take_results(ms_from(start_ns, now_ns)),
            stragglers: self.of_no_core(),
            stalls_total,
            stalls,
            foreign_letters: self.shared.foreign_letters.load(Ordering::Acquire),
            ..Report::default()
        };
        report.verdict = verdict_of(&report);
        report
    }

    /// Each core's last word; a core that left none is stuck.
    fn core_reports(&self, start_ns: u64, now_ns: u64) -> Vec<CoreReport> {
        let asked = |core: usize| self.asked.get(core).copied().unwrap_or_default();
        self.shared
            .stations
            .iter()
            .enumerate()
            .map(|(core, station)| {
                let mut report = station.take_report().unwrap_or_else(|| CoreReport {
                    core,
                    cpu: station.cpu,
                    outcome: CoreOutcome::Stuck,
                    letters: Letters {
                        sent: station.sent.load(Ordering::Acquire),
                        handled: station.handled.load(Ordering::Acquire),
                        returned: 0,
                    },
                    stuck: Some(autopsy::of(station, asked(core), start_ns, now_ns)),
                    stragglers: still_listening(station),
                    ..CoreReport::default()
                });
                report.stragglers.extend(self.turned_away_from(core));
                report
            })
            .collect()
    }

    /// The listeners of a core that were closed to clients in its place.
    fn turned_away_from(&self, core: usize) -> impl Iterator<Item = Straggler> {
        let its = move |(of, _): &&(usize, TurnedAway)| *of == core;
        self.turned_away
            .iter()
            .filter(its)
            .map(|(_, away)| Straggler {
                kind: "listener".to_owned(),
                name: away.address.to_string(),
                spawned_at: None,
                detail: format!(
                    "its core was stuck: {} of its backlog closed without an answer",
                    away.connections
                ),
            })
    }

    /// The guards that were held at the cut, and the listeners that no core had taken and that had
    /// clients in their backlogs.
    fn of_no_core(&self) -> Vec<Straggler> {
        let waited = self.untaken.iter().filter(|away| away.connections > 0);
        let listeners = waited.map(|away| Straggler {
            kind: "listener".to_owned(),
            name: away.address.to_string(),
            spawned_at: None,
            detail: format!(
                "no core had taken it: {} of its backlog closed without an answer",
                away.connections
            ),
        });
        self.held.iter().cloned().chain(listeners).collect()
    }

    /// When the parts of the stop would have been cut.
    fn deadlines(&self) -> DeadlinesReport {
        let Some(instants) = self.machine.instants() else {
            return DeadlinesReport::default();
        };
        let from_start = |at_ns| ms_from(instants.start, at_ns);
        DeadlinesReport {
            drain_ms: from_start(instants.drain_deadline),
            hooks_ms: from_start(instants.hook_deadline),
            hard_ms: from_start(instants.hard_deadline),
        }
    }

    /// The configuration the stop ran under.
    fn config(&self) -> ConfigReport {
        let config = &self.shared.config;
        let reserves = config.reserves(self.knows_hook);
        ConfigReport {
            notice_ms: ms(config.notice_ns()),
            quiet_ms: ms(config.quiet_ns()),
            timeout_ms: ms(config.timeout_ns()),
            idle_grace_ms: ms(config.idle_grace_ns()),
            linger_ms: ms(config.linger_ns()),
            stuck_after_ms: ms(config.stuck_after_ns()),
            hooks_ms: ms(reserves.hooks_ns),
            close_ms: ms(reserves.close_ns),
        }
    }
}

/// The sockets that a core which left no last word still listens with: nobody else may end that.
fn still_listening(station: &Station) -> Vec<Straggler> {
    let shared = station.listening.shared().into_iter();
    let named = shared.map(|address| Straggler {
        kind: "listener".to_owned(),
        name: address.to_string(),
        spawned_at: None,
        detail: "still listening: others may hold it, and its core is stuck".to_owned(),
    });
    named.collect()
}
