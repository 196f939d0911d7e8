//! What the cores have to agree on before a phase ends, and what follows from it: that all is quiet,
//! that all hooks have run. A core that is gone has no say in it, nor has one that is stuck.

#![forbid(unsafe_code)]

use super::Coordinator;
use crate::hooks::unrun;
use crate::mailbox::Letter;
use crate::report::ms_from;
use crate::shared::progress;

impl Coordinator {
    /// Whether every core has `bits`, or is gone, or stuck.
    pub(super) fn all(&self, bits: u32) -> bool {
        self.seen.iter().zip(&self.watches).all(|(seen, watch)| {
            seen & bits == bits || seen & progress::GONE != 0 || watch.is_stuck()
        })
    }

    /// Whether all cores are quiet at one moment: each says so, every letter is handled, and the
    /// same is read again. A letter between two cores breaks the quiet of its reader before it
    /// counts as handled, so it cannot hide between the readings. A core that is stuck is not
    /// asked: nobody knows when it will read its letters.
    pub(super) fn all_quiet(&self) -> bool {
        let read = || -> Option<Vec<u64>> {
            self.shared
                .stations
                .iter()
                .zip(self.seen.iter().zip(&self.watches))
                .map(|(station, (seen, watch))| {
                    let gone = seen & progress::GONE != 0;
                    if gone || watch.is_stuck() {
                        Some(0)
                    } else {
                        station.quiet_reading()
                    }
                })
                .collect()
        };
        match read() {
            Some(first) => read() == Some(first),
            None => false,
        }
    }

    /// Tells the cores that are stuck that the others leave Draining without them.
    pub(super) fn leave_out_stuck(&self) {
        for (station, watch) in self.shared.stations.iter().zip(&self.watches) {
            if watch.is_stuck() {
                station.leave_out();
            }
        }
    }

    /// When no guard will have been held for the quiet period (ns); `None` while one is held.
    pub(super) fn guards_quiet_at_ns(&self) -> Option<u64> {
        let quiet_ns = self.machine.instants()?.quiet_ns;
        let released_ns = self.shared.guards.released_ns()?;
        // With none ever taken there is no period to wait for.
        Some(match released_ns {
            0 => 0,
            _ => released_ns.saturating_add(quiet_ns),
        })
    }

    /// Whether no guard has been held for the quiet period.
    pub(super) fn guards_are_quiet(&self, now_ns: u64) -> bool {
        self.guards_quiet_at_ns()
            .is_some_and(|at_ns| now_ns >= at_ns)
    }

    /// Sends the hooks of the process to the lowest core that lives; and those that are left to the
    /// next one, should that core fail.
    pub(super) fn run_process_hooks(&mut self) {
        let is_gone = |core: usize| self.seen[core] & progress::GONE != 0;
        let has_them = self.process_hooks_on.is_some_and(|core| !is_gone(core));
        if has_them || self.shared.process_hooks.are_done() {
            return;
        }
        let start_ns = self.machine.instants().map_or(0, |instants| instants.start);
        let at_ms = ms_from(start_ns, self.shared.clock.now_ns());
        self.shared.process_hooks.note_unended(at_ms);
        for (core, station) in self.shared.stations.iter().enumerate() {
            if is_gone(core) || self.watches[core].is_stuck() {
                continue;
            }
            let letter = Letter::of(crate::core::run_process_hooks);
            if station
                .mailbox
                .post(letter, &self.shared.foreign_letters)
                .is_ok()
            {
                self.process_hooks_on = Some(core);
                return;
            }
        }
        // No core lives to run them: the report will say that their turn never came.
        while let Some(hook) = self.shared.process_hooks.next() {
            let unrun = unrun(hook.name, at_ms);
            self.shared.process_hooks.note(unrun);
        }
    }
}
