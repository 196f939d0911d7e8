//! What the coordinator does for the cores that are not done when all is over: it waits for their last
//! words, but not for long.

#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::time::Duration;

use super::Coordinator;
use crate::clock::ns;
use crate::config::LAST_WORDS;
use crate::ring::sys::event::wait_readable;
use crate::shared::{Station, progress};
use crate::shutdown::autopsy::Asked;
use crate::shutdown::watch::Watch;
use crate::sync::Arc;

impl Coordinator {
    /// Cores that were given up find that order at their next turn and leave their report. One
    /// that does not in this time is in the middle of a turn that does not end: it is stuck. But
    /// one that had no processor has not been asked yet, and is given that time once more; unless it
    /// had the time of a whole stuck turn before.
    pub(super) fn wait_for_last_words(&mut self) {
        self.ask_for_last_words();
        if self.all_leave_within_last_words() {
            return;
        }
        let mut stations = self.shared.stations.iter().zip(&self.asked);
        if stations.any(|(station, asked)| !is_gone(station) && asked.is_starved(station)) {
            let _all = self.all_leave_within_last_words();
        }
    }

    /// Notes how far each core is whose last words are waited for. One that is gone has none left,
    /// and no thread: to look it up took a tenth of a stop of nothing, and might find another's.
    pub(super) fn ask_for_last_words(&mut self) {
        let ask = |(station, watch): (&Arc<Station>, &Watch)| match is_gone(station)
            || watch.is_stuck()
        {
            true => Asked::default(),
            false => Asked::now(station),
        };
        let stations = self.shared.stations.iter();
        self.asked = stations.zip(&self.watches).map(ask).collect();
    }

    /// Waits for the last words of every core. Whether all came.
    fn all_leave_within_last_words(&self) -> bool {
        let until_ns = self.shared.clock.now_ns() + ns(LAST_WORDS);
        loop {
            if self.shared.stations.iter().all(|core| is_gone(core)) {
                return true;
            }
            let left_ns = until_ns.saturating_sub(self.shared.clock.now_ns());
            if left_ns == 0 {
                return false;
            }
            let left = Duration::from_nanos(left_ns);
            // An error here only makes the wait a busy one, and it ends by the clock.
            let _again = wait_readable(&[self.shared.bell.as_fd()], Some(left));
            self.shared.bell.clear();
        }
    }
}

/// Whether a core has left its last word.
fn is_gone(station: &Station) -> bool {
    station.progress() & progress::GONE != 0
}
