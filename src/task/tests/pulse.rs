//! What other threads see of the task whose code runs.

use super::*;
use crate::task::Running;

/// The id of what runs, and whether it is its destructor.
type Seen = Option<(u64, bool)>;

fn seen(pulse: &Pulse) -> Seen {
    let running: Option<Running> = pulse.running();
    running.map(|running| (running.info.id, running.dropping))
}

/// Notes what the pulse says when it is dropped.
struct Notes {
    pulse: Arc<Pulse>,
    into: Rc<RefCell<Vec<Seen>>>,
}

impl Drop for Notes {
    fn drop(&mut self) {
        self.into.borrow_mut().push(seen(&self.pulse));
    }
}

#[test]
fn the_pulse_names_the_task_being_polled_and_where_it_was_spawned() {
    let pulse = Arc::new(Pulse::default());
    let tasks = Tasks::new(Arc::new(Bell::default()), pulse.clone());
    let (inside, line) = (pulse.clone(), line!() + 1);
    let handle = tasks.go(async move { inside.running() });
    assert!(pulse.running().is_none(), "nothing runs yet");
    tasks.settle();
    let running = result(handle).expect("it ended").expect("it ran");
    assert_eq!((running.info.id, running.dropping), (1, false));
    assert_eq!(running.info.kind, Kind::Essential);
    assert_eq!(running.info.site.line(), line);
    assert!(pulse.running().is_none(), "nothing runs any more");
}

#[test]
fn a_destructor_is_its_tasks_code_and_after_it_the_outer_tasks_goes_on() {
    let pulse = Arc::new(Pulse::default());
    let tasks = Tasks::new(Arc::new(Bell::default()), pulse.clone());
    let noted = Rc::new(RefCell::new(Vec::new()));
    let notes = || Notes {
        pulse: pulse.clone(),
        into: noted.clone(),
    };
    let dropped = notes();
    let victim = tasks.go(async move {
        let _dropped = dropped;
        pending::<()>().await;
    });
    let after = notes();
    let _culprit = tasks.go(async move {
        victim.abort();
        drop(after);
    });
    tasks.settle();
    assert_eq!(*noted.borrow(), [Some((1, true)), Some((2, false))]);
    assert_eq!(seen(&pulse), None);
}

#[test]
fn a_turn_lasts_until_the_core_rests() {
    let pulse = Pulse::default();
    assert_eq!(pulse.turn_ns(), None, "not begun");
    pulse.begin_turn(7);
    assert_eq!(pulse.turn_ns(), Some(7));
    pulse.rest();
    assert_eq!(pulse.turn_ns(), None);
}
