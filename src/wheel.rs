//! The timer wheel of one core: which entry is due, and when to look again.
//!
//! Time is a `u64` of ticks that the caller passes in; what a tick means is
//! the caller's business. Eleven levels of 64 slots cover all 64 bits, so a
//! deadline is never too far away to be filed and there is no overflow list.
//!
//! Read a tick as a number in base 64. An entry is filed at the highest digit
//! in which its deadline differs from `now`, in the slot that this digit of
//! the deadline names. Three facts follow, and everything here rests on them:
//!
//! 1. A filed deadline agrees with `now` above its level and is greater at it.
//!    So the earliest entry lies in the lowest occupied level, in that level's
//!    first occupied slot: two `trailing_zeros`, no rotation.
//! 2. Time can move to any tick before the start of that slot without touching
//!    an entry, so an idle span costs nothing however long it is.
//! 3. At any moment equal deadlines share a slot. Slots are queues and re-filing
//!    keeps their order, so one tick fires in the order of insertion.
//!
//! The way of an entry (any state is left for good by `cancel` and `drain`):
//!
//! ```text
//!            insert, deadline > now            insert, deadline <= now
//!                     │                                  │
//!                     ▼                                  ▼
//!   ┌───────── filed in a slot ─┐                     overdue
//!   │ refile          │  ▲      │ extract              │   │ extract
//!   │ (deadline now)  │  │      └───────► gone ◄───────┼───┘
//!   │                 └──┘                  ▲          │
//!   │        refile (a lower level)         │          │ expire_overdue
//!   ▼                                       │          │
//!   expired ◄───────────────────────────────┼──────────┘
//!      └────────────────────────────────────┘
//!                   pop_expired
//! ```
//!
//! Entries live in a slab, and every queue is a ring of links by index: filing
//! and cancelling touch an entry and its two neighbours, whatever the number of
//! entries. Only `advance` walks, and only through slots whose time has come.

#![forbid(unsafe_code)]

/// Bits of a tick that one level resolves.
const DIGIT_BITS: u32 = 6;
/// Slots of a level, and bits of its occupancy word.
const SLOTS: usize = 1 << DIGIT_BITS;
/// Levels that resolve all 64 bits of a tick.
const LEVELS: usize = u64::BITS.div_ceil(DIGIT_BITS) as usize;

/// The queue of entries whose deadline had passed when they were inserted. It
/// stands after the slots, in a row of the occupancy words of its own.
const OVERDUE: usize = LEVELS * SLOTS;
/// The queue of entries that came due and wait for `pop_expired`.
const EXPIRED: usize = OVERDUE + 1;
/// All queues: the slots, level by level, then the two above.
const QUEUES: usize = EXPIRED + 1;
/// The occupancy bit of `OVERDUE`.
const OVERDUE_BIT: u64 = 1 << (OVERDUE % SLOTS);
/// The occupancy bit of `EXPIRED`.
const EXPIRED_BIT: u64 = 1 << (EXPIRED % SLOTS);
/// Ends the chain of vacant links.
const NIL: u32 = u32::MAX;

/// A hierarchical timer wheel that holds a `T` for every deadline.
pub(crate) struct Wheel<T> {
    /// The tick reached by the last advance. It never falls, and every filed
    /// deadline is greater.
    now: u64,
    /// Entries that are filed, overdue or expired: the nodes with a value.
    len: usize,
    /// The link of the first vacant node, chained by `next`; `NIL` if there is
    /// none.
    vacant: u32,
    /// Bit `q % 64` of word `q / 64` is set exactly if queue `q` is not empty:
    /// a word for each level, and a last one for overdue and expired.
    occupied: [u64; LEVELS + 1],
    /// The rings of the queues. The first `QUEUES` links are the rings' fixed
    /// points, one for each queue and alone in it when that is empty. Link
    /// `QUEUES + i` belongs to node `i`.
    links: Vec<Link>,
    /// The slab. It grows and never shrinks, so an index stays valid.
    nodes: Vec<Node<T>>,
}

/// Names one entry of a [`Wheel`], and nothing once that entry is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Key {
    /// The link of the entry's node.
    index: u32,
    /// The node's generation at insertion. The node moves on to the next one
    /// when the entry leaves, and never comes back to this one.
    generation: u32,
}

/// Deadline and neighbours in a queue. They stand apart from the values because
/// a wheel of many entries waits for memory: re-filing reads links alone, and
/// the neighbours that cancelling has to write to lie close together.
#[derive(Clone, Copy)]
struct Link {
    /// An entry's deadline as given, also when it had passed already. At a
    /// fixed point, the smallest deadline pushed since the queue was last empty
    /// (stale while it is empty): cancelling leaves it, so it may be too small
    /// and is never too large.
    deadline: u64,
    /// The link before this one; at a fixed point, the queue's last.
    prev: u32,
    /// The link after this one; at a fixed point, the queue's first. In the
    /// link of a vacant node, the next vacant one or `NIL`.
    next: u32,
}

/// A place in the slab, for one entry at a time.
struct Node<T> {
    /// `Some` exactly while the node holds an entry.
    value: Option<T>,
    /// Grows by one when an entry leaves. A node that reaches `u32::MAX` is
    /// retired, so that no old key ever names a new entry.
    generation: u32,
}

impl<T> Wheel<T> {
    /// An empty wheel whose time is `now`.
    pub(crate) fn new(now: u64) -> Self {
        Self {
            now,
            len: 0,
            vacant: NIL,
            occupied: [0; LEVELS + 1],
            links: (0..QUEUES as u32).map(Link::alone).collect(),
            nodes: Vec::new(),
        }
    }

    /// Adds an entry. A deadline that is not in the future is due at the next
    /// [`advance`](Self::advance), whatever time that passes.
    pub(crate) fn insert(&mut self, deadline: u64, value: T) -> Key {
        let key = self.occupy(value);
        let queue = if deadline <= self.now {
            OVERDUE
        } else {
            slot_queue(self.now, deadline)
        };
        self.push(queue, key.index, deadline);
        key
    }

    /// Takes an entry out, also one that has expired and was not popped.
    pub(crate) fn cancel(&mut self, key: Key) -> Option<T> {
        self.named(key)?;
        self.remove(key.index)
    }

    /// The value of an entry, also of one that has expired and was not popped.
    pub(crate) fn value_mut(&mut self, key: Key) -> Option<&mut T> {
        self.named(key)?;
        self.node_mut(key.index).value.as_mut()
    }

    /// The deadline an entry was inserted with.
    #[cfg(test)]
    pub(crate) fn deadline(&self, key: Key) -> Option<u64> {
        self.named(key)?;
        Some(self.links[key.index as usize].deadline)
    }

    /// When to advance next: never later than the earliest deadline, and the
    /// time of the wheel if something is due already.
    ///
    /// Otherwise the answer lies in the future. It is exact unless the entry
    /// that was the earliest of its slot has been cancelled; even then an
    /// advance to it makes progress, because it opens that slot.
    #[inline]
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        self.first_deadline()
    }

    /// As `next_deadline`, where there are entries.
    fn first_deadline(&self) -> Option<u64> {
        if self.occupied[LEVELS] != 0 {
            return Some(self.now);
        }
        let (level, slot) = self.first_slot()?;
        Some(self.links[level * SLOTS + slot].deadline)
    }

    /// Moves time to `now` and expires what is due: by deadline, and by order
    /// of insertion within a tick. A `now` in the past leaves time as it is.
    ///
    /// The cost is that of the slots whose start is reached, each emptied in one
    /// go: a slot with 262,144 entries took 3 ms where its links stood in order
    /// in memory, and 47 ms where they were scattered.
    #[inline]
    pub(crate) fn advance(&mut self, now: u64) {
        if self.len == 0 {
            self.now = self.now.max(now);
        } else {
            self.advance_slots(now);
        }
    }

    /// As `advance`, where there are entries.
    fn advance_slots(&mut self, now: u64) {
        if self.occupied[LEVELS] & OVERDUE_BIT != 0 {
            self.expire_overdue();
        }
        while let Some((level, slot)) = self.first_slot() {
            let start = slot_start(self.now, level, slot);
            if start > now {
                break;
            }
            self.now = start;
            self.refile(level * SLOTS + slot);
        }
        self.now = self.now.max(now);
    }

    /// Takes out the entry that expired first.
    pub(crate) fn pop_expired(&mut self) -> Option<T> {
        if self.occupied[LEVELS] & EXPIRED_BIT == 0 {
            return None;
        }
        self.remove(self.links[EXPIRED].next)
    }

    /// Entries that are pending, and entries that expired and were not popped.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// True if the wheel holds no entry, pending or expired.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes out every entry, pending or expired, in no particular order.
    #[cfg(test)]
    pub(crate) fn drain(&mut self) -> Vec<T> {
        let mut drained = Vec::with_capacity(self.len);
        for index in QUEUES..self.links.len() {
            drained.extend(self.remove(index as u32));
        }
        drained
    }

    /// Shows every entry, pending or expired, in no particular order.
    #[cfg(test)]
    pub(crate) fn each(&self, f: &mut dyn FnMut(u64, &T)) {
        for (node, link) in self.nodes.iter().zip(&self.links[QUEUES..]) {
            if let Some(value) = &node.value {
                f(link.deadline, value);
            }
        }
    }

    /// Takes out every pending entry for which `pred` holds, in no particular
    /// order. What has expired is left for [`pop_expired`](Self::pop_expired).
    pub(crate) fn extract(&mut self, pred: &mut dyn FnMut(u64, &T) -> bool) -> Vec<T> {
        let mut extracted = Vec::new();
        for queue in 0..=OVERDUE {
            let mut index = self.links[queue].next;
            while index as usize != queue {
                let Link { deadline, next, .. } = self.links[index as usize];
                let value = self.node_mut(index).value.as_ref();
                if value.is_some_and(|value| pred(deadline, value)) {
                    extracted.extend(self.remove(index));
                }
                index = next;
            }
        }
        extracted
    }

    /// The first slot of the lowest level that has one, as level and slot: the
    /// one with the earliest filed entry.
    fn first_slot(&self) -> Option<(usize, usize)> {
        let level = self.occupied[..LEVELS].iter().position(|&word| word != 0)?;
        Some((level, self.occupied[level].trailing_zeros() as usize))
    }

    /// Expires the overdue entries. They were pushed as they came, so they are
    /// sorted here, stably. All of them precede whatever is filed: a filed
    /// deadline is later than the time at which these had passed.
    fn expire_overdue(&mut self) {
        let mut order = Vec::new();
        let mut index = self.detach(OVERDUE);
        while index as usize != OVERDUE {
            let Link { deadline, next, .. } = self.links[index as usize];
            order.push((deadline, index));
            index = next;
        }
        order.sort_by_key(|&(deadline, _)| deadline);
        for (deadline, index) in order {
            self.push(EXPIRED, index, deadline);
        }
    }

    /// Empties a slot at whose start time now stands: what is due expires, the
    /// rest goes to lower levels. Each entry moves down at least one level, so
    /// over its life it is re-filed fewer than `LEVELS` times.
    fn refile(&mut self, queue: usize) {
        let mut index = self.detach(queue);
        while index as usize != queue {
            let Link { deadline, next, .. } = self.links[index as usize];
            let target = if deadline <= self.now {
                EXPIRED
            } else {
                slot_queue(self.now, deadline)
            };
            self.push(target, index, deadline);
            index = next;
        }
    }

    /// Empties a queue and gives its first link. The links still lead from one
    /// to the next and at last to `queue`, for the caller to push elsewhere
    /// before anything else is done.
    fn detach(&mut self, queue: usize) -> u32 {
        self.occupied[queue / SLOTS] &= !(1 << (queue % SLOTS));
        std::mem::replace(&mut self.links[queue], Link::alone(queue as u32)).next
    }

    /// Links an entry in at the end of a queue.
    fn push(&mut self, queue: usize, index: u32, deadline: u64) {
        let bit = 1 << (queue % SLOTS);
        let word = &mut self.occupied[queue / SLOTS];
        let fixed_point = &mut self.links[queue];
        if *word & bit == 0 || deadline < fixed_point.deadline {
            fixed_point.deadline = deadline;
        }
        *word |= bit;
        let prev = std::mem::replace(&mut fixed_point.prev, index);
        self.links[prev as usize].next = index;
        self.links[index as usize] = Link {
            deadline,
            prev,
            next: queue as u32,
        };
    }

    /// Links an entry out of the queue it is in. The queue has become empty if
    /// both neighbours are the same, for that is then its fixed point.
    fn unlink(&mut self, index: u32) {
        let Link { prev, next, .. } = self.links[index as usize];
        self.links[prev as usize].next = next;
        self.links[next as usize].prev = prev;
        if prev == next {
            let queue = prev as usize;
            self.occupied[queue / SLOTS] &= !(1 << (queue % SLOTS));
        }
    }

    /// Puts an entry into a vacant node, or into a new one, and leaves linking
    /// to the caller.
    fn occupy(&mut self, value: T) -> Key {
        self.len += 1;
        if self.vacant == NIL {
            return self.grow(value);
        }
        let index = self.vacant;
        self.vacant = self.links[index as usize].next;
        let node = self.node_mut(index);
        node.value = Some(value);
        let generation = node.generation;
        Key { index, generation }
    }

    /// Puts an entry into a new node.
    fn grow(&mut self, value: T) -> Key {
        // Memory runs out before: so many links alone take 64 GiB.
        assert!(self.links.len() < NIL as usize, "2^32 timers are live");
        let index = self.links.len() as u32;
        self.links.push(Link::alone(index));
        self.nodes.push(Node {
            value: Some(value),
            generation: 0,
        });
        Key {
            index,
            generation: 0,
        }
    }

    /// Takes the entry out of a node, if it holds one, and makes it vacant.
    fn remove(&mut self, index: u32) -> Option<T> {
        let node = self.node_mut(index);
        let value = node.value.take()?;
        node.generation += 1;
        let retired = node.generation == u32::MAX;
        self.unlink(index);
        self.len -= 1;
        if !retired {
            self.links[index as usize].next = self.vacant;
            self.vacant = index;
        }
        Some(value)
    }

    /// The node `key` names, if its entry is still there. A vacant node has a
    /// generation that no key was given yet, so comparing it is enough.
    fn named(&self, key: Key) -> Option<&Node<T>> {
        let node = self.nodes.get(key.index as usize - QUEUES)?;
        (node.generation == key.generation).then_some(node)
    }

    /// The node a link belongs to.
    fn node_mut(&mut self, index: u32) -> &mut Node<T> {
        &mut self.nodes[index as usize - QUEUES]
    }
}

impl Link {
    /// The only link of a ring.
    fn alone(index: u32) -> Self {
        Self {
            deadline: 0,
            prev: index,
            next: index,
        }
    }
}

/// The queue of the slot for a deadline that is later than `now`.
fn slot_queue(now: u64, deadline: u64) -> usize {
    debug_assert!(now < deadline, "{deadline} is not later than {now}");
    let level = (now ^ deadline).ilog2() / DIGIT_BITS;
    let slot = (deadline >> (level * DIGIT_BITS)) as usize % SLOTS;
    level as usize * SLOTS + slot
}

/// The first tick of a slot: the digits of `now` above the level, the slot at
/// the level, zeros below.
fn slot_start(now: u64, level: usize, slot: usize) -> u64 {
    let shift = level as u32 * DIGIT_BITS;
    let above = (now >> shift) & !(SLOTS as u64 - 1);
    (above | slot as u64) << shift
}

#[cfg(test)]
mod tests;
