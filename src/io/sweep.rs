//! How a listener stops accepting, in a stop and when its last handle is gone.
//!
//! ```text
//!       close_gate           window over        last completion,
//!       (gate down)          (cancel accept)    accept4 until empty, close
//!  No ─────────────▶ Window ─────────────▶ Sweep ─────────────▶ Done
//!  └────────────── begin_sweep ─────────────▲ (no window; last handle gone)
//! ```
//! The accept that is armed is the drain: it runs on behind the gate, until the window is over. Only
//! then is the rest taken out of the backlog, with no accept in the kernel any more.

#![forbid(unsafe_code)]

use std::os::fd::AsFd;

use super::Io;
use super::accept::Accept;
use super::drain::first_byte_wait_ns;
use super::listener::Listener;
use super::listening::Swept;
use crate::clock::ns;
use crate::config::{HANDSHAKE_RECENT, SWEEP_RETRY, WINDOW_MAX, WINDOW_MIN};
use crate::report::{Gate, NoGate, Straggler};
use crate::ring::sys::socket;

/// Where in the stop a listener is. See the module's diagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drain {
    /// It accepts as ever.
    No,
    /// The gate is down; handshakes under way may complete until then (ns).
    Window { until_ns: u64 },
    /// The accept is called back; then the backlog is emptied.
    Sweep,
    /// Closed; no connection was left behind in it.
    Done,
}

/// What a stop and a core's end ask of all listeners.
impl Io {
    /// Whether every listener is closed.
    pub(crate) fn listeners_closed(&self) -> bool {
        self.listeners
            .iter()
            .all(|(_, listener)| listener.fd.is_none())
    }

    /// Ends listening for good: what can be taken of the backlogs is taken, and closed in order;
    /// for the cut and the end of a core.
    pub(crate) fn begin_last_sweeps(&mut self) {
        self.last_sweep = true;
        if let Some(draining) = &mut self.draining {
            draining.forget_spread();
        }
        let listeners: Vec<u32> = self
            .listeners
            .iter()
            .map(|(index, _)| index as u32)
            .collect();
        for index in listeners {
            self.close_untaken(index);
            self.begin_sweep(index);
        }
    }

    /// Takes the list of listeners that were closed with clients in their backlog.
    pub(crate) fn take_refused(&mut self) -> Vec<Straggler> {
        std::mem::take(&mut self.refused)
    }

    /// Takes each listener's next step, where it is due.
    pub(super) fn step_listeners(&mut self) {
        let listeners: Vec<u32> = self
            .listeners
            .iter()
            .filter(|(_, listener)| listener.drain != Drain::Done)
            .map(|(index, _)| index as u32)
            .collect();
        for index in listeners {
            self.step_listener(index);
        }
    }

    /// When the first window is over (ns).
    pub(super) fn window_ends_ns(&self) -> Option<u64> {
        let windows = self
            .listeners
            .iter()
            .filter_map(|(_, listener)| match listener.drain {
                Drain::Window { until_ns } => Some(until_ns),
                _ => None,
            });
        windows.min()
    }

    /// Closes the sockets of all listeners without another look, for a core whose time is over.
    pub(crate) fn close_all_listeners(&mut self) {
        for (_, listener) in &mut self.listeners {
            if listener.accept == Accept::Off {
                drop(listener.fd.take());
            }
        }
    }
}

/// The machine of one.
impl Io {
    /// Lets the gate down and opens the window; returns both.
    pub(super) fn close_gate(&mut self, index: u32) -> (u64, Gate) {
        let now_ns = self.now_ns;
        let Some(listener) = self.listeners.get_mut(index as usize) else {
            return (0, Gate::None);
        };
        if listener.drain != Drain::No {
            return (0, listener.gate);
        }
        match &listener.fd {
            // A gate is the socket's: it would turn away the clients of whoever else holds it.
            Some(fd) if fd.is_shared() => listener.no_gate = Some(NoGate::Shared),
            Some(fd) => {
                listener.gate = super::gate::close(fd.as_fd(), listener.address.is_ipv6());
                listener.no_gate = (listener.gate == Gate::None).then_some(NoGate::Refused);
            }
            None => {}
        }
        let recent = listener
            .accepted_ns
            .is_some_and(|at_ns| now_ns.saturating_sub(at_ns) <= ns(HANDSHAKE_RECENT));
        // A core that had no turn for a second accepted nothing, and yet somebody may be waiting.
        let waiting = || listener.borrow().and_then(|fd| socket::backlog(fd).ok());
        if !listener.cuts() && (recent || waiting().is_some_and(|connections| connections > 0)) {
            listener.open_window(now_ns);
        } else {
            listener.drain = Drain::Window { until_ns: now_ns };
        }
        (listener.window_ns, listener.gate)
    }

    /// A connection was accepted while a listener drains. One that looked idle when the drain
    /// began was not: what was accepted before it was only reaped now. It gets its window.
    pub(super) fn note_accept_in_drain(&mut self, index: u32) {
        let now_ns = self.now_ns;
        let (Some(listener), Some(draining)) =
            (self.listeners.get_mut(index as usize), &mut self.draining)
        else {
            return;
        };
        let closing = matches!(listener.drain, Drain::Window { .. }) && listener.window_ns == 0;
        if closing && !listener.cuts() {
            listener.open_window(now_ns);
            let wait_ns = first_byte_wait_ns(listener.window_ns, listener.gate);
            draining.late_first_byte_ns = draining.late_first_byte_ns.max(wait_ns);
        }
    }

    /// Takes the listener's next step, if it is due.
    fn step_listener(&mut self, index: u32) {
        let now_ns = self.now_ns;
        let Some(listener) = self.listeners.get(index as usize) else {
            return;
        };
        match listener.drain {
            Drain::Window { until_ns } if now_ns >= until_ns => self.begin_sweep(index),
            _ => {}
        }
    }

    /// Calls the accept back; the backlog is emptied after its last completion.
    pub(super) fn begin_sweep(&mut self, index: u32) {
        let Some(listener) = self.listeners.get_mut(index as usize) else {
            return;
        };
        if listener.drain == Drain::Done {
            return self.forget_listener(index);
        }
        listener.drain = Drain::Sweep;
        self.stop_accept(index);
        self.sweep(index);
    }

    /// Takes all that is in the backlog, then closes the socket. Only once no accept is in the
    /// kernel: closing with one armed leaves a listener that accepts on, and the port busy.
    pub(super) fn sweep(&mut self, index: u32) {
        let Some(listener) = self.listeners.get(index as usize) else {
            return;
        };
        let (Accept::Off, Some(open)) = (listener.accept, listener.fd.as_ref()) else {
            return;
        };
        let Swept { taken, left_by } = open.sweep();
        for fd in taken {
            self.accepted(index, fd);
        }
        match left_by {
            None => self.close_listener(index),
            Some(errno) if self.last_sweep => self.refuse_backlog(index, errno),
            Some(errno) => self.pause_accept(index, errno, SWEEP_RETRY),
        }
    }

    /// The descriptors ran out and so has the time: whoever is in the backlog is refused, and the
    /// report says so.
    fn refuse_backlog(&mut self, index: u32, errno: i32) {
        let error = std::io::Error::from_raw_os_error(errno);
        if let Some(listener) = self.listeners.get(index as usize) {
            self.refused.push(Straggler {
                kind: "listener".to_owned(),
                name: listener.address.to_string(),
                spawned_at: None,
                detail: format!(
                    "closed with clients in its backlog, who could not be accepted: {error}"
                ),
            });
        }
        self.close_listener(index);
    }

    /// Closes the socket.
    fn close_listener(&mut self, index: u32) {
        let Some(listener) = self.listeners.get_mut(index as usize) else {
            return;
        };
        drop(listener.fd.take());
        listener.drain = Drain::Done;
        self.wakers.append(&mut listener.wakers);
        self.forget_listener(index);
    }

    /// Drops a record nobody knows any more, in Running; a stop keeps it for the report.
    fn forget_listener(&mut self, index: u32) {
        let idle = self.draining.is_none()
            && self
                .listeners
                .get(index as usize)
                .is_some_and(|listener| listener.handles == 0 && listener.fd.is_none());
        if idle {
            self.listeners.remove(index as usize);
        }
    }
}

impl Listener {
    /// Whether its connections are reset by the drain. Who completes a handshake only to be reset
    /// loses nothing by being reset at once: there is no window.
    fn cuts(&self) -> bool {
        self.policy().is_some_and(|policy| policy.cuts())
    }

    /// Gives the handshakes under way their time, from `now_ns` on.
    fn open_window(&mut self, now_ns: u64) {
        let window_ns = 3 * self.handshake_ns;
        self.window_ns = window_ns.clamp(ns(WINDOW_MIN), ns(WINDOW_MAX));
        self.drain = Drain::Window {
            until_ns: now_ns + self.window_ns,
        };
    }
}
