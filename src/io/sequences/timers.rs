//! What a core shows while it looks through a crowd of timers.

use std::cell::Cell;

use super::World;
use crate::io::drain::TIMERS_BETWEEN;
use crate::io::timer::{Timer, tick};

#[test]
fn a_core_that_gives_up_a_crowd_of_timers_shows_that_it_goes_on() {
    const CROWD: u64 = 10 * TIMERS_BETWEEN;
    let mut world = World::new();
    let now_ns = world.io.now_ns;
    let shown = Cell::new(0);
    let show = || shown.set(shown.get() + 1);
    let crowd = |world: &mut World| {
        for number in 1..=CROWD {
            let due = tick(now_ns + number * 1_000_000);
            let _key = world.io.wheel.insert(due, Timer::Spawn(Box::new(|| ())));
            world.io.delayed_spawns += 1;
        }
    };
    crowd(&mut world);
    assert_eq!(
        world.io.end_late_timers(now_ns, &show).len(),
        CROWD as usize
    );
    assert_eq!(shown.take(), 10);
    crowd(&mut world);
    assert_eq!(world.io.end_all_timers(&show).len(), CROWD as usize);
    assert_eq!(shown.take(), 10);
    assert_eq!(world.io.delayed_spawns, 0);
}
