//! The steps of a script: one thing after the other, each chosen by the dice among all that could
//! happen.

#![forbid(unsafe_code)]

use super::kernel::Kernel;
use super::met::Case;
use super::peer::Act;

/// What can happen.
#[derive(Clone, Copy, Debug)]
enum Thing {
    /// An operation goes on.
    Op(usize),
    /// The peer of a socket acts.
    Act(usize),
    /// The peer of a socket acknowledges.
    Acknowledge(usize),
    /// Somebody connects.
    Arrival,
}

impl Kernel {
    /// Lets one thing happen; `false` if nothing can.
    pub(super) fn step(&mut self) -> bool {
        let ops = (0..self.ops.len()).filter(|at| self.can_go_on(&self.ops[*at]));
        let mut things: Vec<Thing> = ops.map(Thing::Op).collect();
        for at in 0..self.sockets.len() {
            self.add_peer_things(at, &mut things);
        }
        if !self.arrivals.is_empty() && self.listeners.iter().any(|l| !l.closed) {
            things.push(Thing::Arrival);
        }
        if things.is_empty() {
            return false;
        }
        match self.dice.pick(&things) {
            Thing::Op(at) => self.go_on(at),
            Thing::Act(at) => self.act(at),
            Thing::Acknowledge(at) => self.acknowledge(at),
            Thing::Arrival => self.arrive(),
        }
        true
    }

    /// What the peer of the socket at `at` could do.
    fn add_peer_things(&self, at: usize, things: &mut Vec<Thing>) {
        let socket = &self.sockets[at];
        if socket.closed || socket.dead {
            return;
        }
        let answers = socket.fin_sent && socket.peer.answers_fin && !socket.fin_came;
        if !socket.peer.acts.is_empty() || answers {
            things.push(Thing::Act(at));
        }
        if socket.unacked() > 0 && socket.peer.drinks {
            things.push(Thing::Acknowledge(at));
        }
    }

    /// A peer does what it does next.
    fn act(&mut self, at: usize) {
        let socket = &mut self.sockets[at];
        match socket.peer.acts.pop_front() {
            _ if socket.fin_came => {}
            Some(Act::Say(count)) => socket.arrived += u64::from(count),
            Some(Act::Fin) | None => socket.fin_came = true,
            Some(Act::Break(errno)) => {
                socket.broken_by = Some(errno);
                socket.dead = true;
                self.met.count(Case::PeerReset);
            }
        }
    }

    /// A peer's kernel acknowledges some of what was sent, or all of it.
    fn acknowledge(&mut self, at: usize) {
        let socket = &mut self.sockets[at];
        let owed = socket.sent.len() as u64 - socket.acked;
        if owed > 0 {
            let all = self.dice.chance(500);
            let some = 1 + self.dice.below(owed);
            socket.acked += if all { owed } else { some };
        } else {
            socket.fin_acked = true;
        }
    }

    /// Somebody connects to a listener.
    fn arrive(&mut self) {
        let open: Vec<usize> = (0..self.listeners.len())
            .filter(|at| !self.listeners[*at].closed)
            .collect();
        let at = self.dice.pick(&open);
        if let Some(peer) = self.arrivals.pop_front() {
            if !peer.drinks {
                self.met.count(Case::PeerStalls);
            }
            if peer.dribbles {
                self.met.count(Case::PeerDribbles);
            }
            self.listeners[at].backlog.push_back(peer);
        }
    }
}
