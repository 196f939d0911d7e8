//! The pool's promises.

use super::*;
use crate::ring::chunk::Chunk;

#[test]
fn a_buffer_goes_back_with_the_last_chunk_that_looks_into_it() {
    let pool = Pool::new();
    let mut chunk = pool.filled(3, 100, 7).expect("buffer 3 is free");
    assert_eq!((pool.lent(), pool.charged(7)), (1, 1));
    let head = chunk.split_to(40);
    let copy = head.slice(10..20);
    assert_eq!((head.len(), chunk.len(), copy.len()), (40, 60, 10));
    drop(chunk);
    drop(head);
    assert_eq!((pool.lent(), pool.charged(7)), (1, 1));
    drop(copy);
    assert_eq!((pool.lent(), pool.charged(7)), (0, 0));
    assert_eq!(pool.free(), u32::from(POOL_BUFFERS));
}

#[test]
fn a_chunk_outlives_its_pool() {
    let pool = Pool::new();
    let chunk = pool.filled(0, 5, 0).expect("buffer 0 is free");
    let other = pool.filled(1, 5, 0).expect("buffer 1 is free");
    drop(pool);
    drop(other);
    assert_eq!(&*chunk, &[0; 5]);
    assert_eq!(&*chunk.clone(), &[0; 5]);
}

#[test]
fn what_a_chunk_leaves_when_its_bytes_are_taken_is_nothing_and_counts_nowhere() {
    let pool = Pool::new();
    let free = pool.free();
    for clones in 0..2 {
        let mut chunk = pool.filled(0, 10, 0).expect("buffer 0 is free");
        let clones: Vec<Chunk> = (0..clones).map(|_| chunk.clone()).collect();
        let taken = chunk.take();
        assert_eq!((taken.len(), taken.is_pooled()), (10, true));
        assert_eq!((chunk.len(), chunk.is_pooled()), (0, false));
        drop((chunk.clone(), chunk.take(), chunk));
        assert_eq!(pool.free(), free - 1, "of all of them one counts");
        drop((clones, taken));
        assert_eq!(pool.free(), free);
    }
    let mut chunk = pool.filled(1, 5, 0).expect("so is buffer 1").into_heap();
    let taken = chunk.take();
    drop(chunk);
    assert_eq!((taken.len(), pool.free()), (5, free));
}

#[test]
fn a_leaked_pool_stays_when_its_last_chunk_is_gone() {
    let pool = Pool::new();
    let memory = pool.0;
    let chunk = pool.filled(0, 5, 0).expect("buffer 0 is free");
    pool.leak();
    drop(pool);
    drop(chunk);
    // SAFETY: a leaked pool is never freed; that it is so is what this test asks (the sanitizer
    // and valgrind see it fail).
    let buffers = unsafe { memory.as_ref() };
    assert_eq!((buffers.lent.get(), buffers.holders.get()), (0, 1));
}

#[test]
fn an_empty_ring_takes_as_many_again_until_the_stock_is_used_up() {
    let pool = Pool::new();
    let mut out = POOL_FIRST;
    let mut held = Vec::new();
    while out < POOL_BUFFERS {
        let ids = held.len() as u16..out;
        held.extend(ids.map(|id| pool.filled(id, 1, 0).expect("it is out")));
        assert_eq!(pool.ready(), 0);
        pool.grow();
        assert_eq!(pool.ready(), u32::from(out));
        out *= 2;
    }
    pool.grow();
    assert_eq!(pool.ready(), u32::from(out / 2));
    drop(held);
    assert_eq!(pool.free(), u32::from(out));
}

#[test]
fn a_burst_whose_buffers_come_back_takes_no_more_than_its_part() {
    let pool = Pool::new();
    for _ in 0..10 {
        pool.grow();
    }
    assert_eq!(pool.ready(), u32::from(POOL_BURST));
}

/// A pool that has nothing in stock.
fn full() -> Pool {
    let pool = Pool::new();
    pool.buffers().wanted.set(POOL_BUFFERS);
    pool.buffers().fill();
    pool
}

/// Lets buffers come back `times` times, with `lent` of them lent at once. As the kernel does, it
/// takes the ring's in their order, from `head`.
fn bring_back(pool: &Pool, head: &mut u16, lent: u16, times: u16) {
    for _ in 0..times / lent {
        let _chunks: Vec<Chunk> = (0..lent)
            .map(|_| {
                let place = usize::from(*head & (POOL_BUFFERS - 1));
                *head = head.wrapping_add(1);
                // SAFETY: the place is one of the ring's entries.
                let entry = unsafe { pool.buffers().ring.add(place) };
                // SAFETY: as above; nobody writes while this is borrowed.
                let entry = unsafe { entry.as_ref() };
                pool.filled(entry.bid(), 1, 0).expect("it is in the ring")
            })
            .collect();
        pool.note_lent();
    }
}

#[test]
fn buffers_that_are_not_wanted_any_more_go_back_to_the_stock() {
    let pool = full();
    let mut head = 0;
    let few = POOL_FIRST / 2;
    bring_back(&pool, &mut head, POOL_BUFFERS / 2, 2 * THOUGHT_OVER_EACH);
    assert_eq!(pool.ready(), u32::from(POOL_BUFFERS), "half of them were");
    // Forgets that the half was lent.
    bring_back(&pool, &mut head, few, THOUGHT_OVER_EACH);
    let mut ready = POOL_BUFFERS;
    while ready > POOL_FIRST {
        ready /= 2;
        // Thought over once, and then half of them come back and stay away.
        bring_back(&pool, &mut head, few, THOUGHT_OVER_EACH);
        assert_eq!(pool.ready(), u32::from(ready));
    }
    bring_back(&pool, &mut head, 1, 2 * THOUGHT_OVER_EACH);
    assert_eq!(pool.ready(), u32::from(POOL_FIRST), "so many stay");
    assert_eq!(pool.free(), u32::from(POOL_BUFFERS));
    pool.grow();
    assert_eq!(pool.ready(), 2 * u32::from(POOL_FIRST));
}

#[test]
fn a_pool_that_is_made_narrow_has_its_first_few_left() {
    let pool = full();
    let mut head = 0;
    pool.narrow();
    bring_back(&pool, &mut head, POOL_FIRST, POOL_BUFFERS);
    assert_eq!(pool.out(), u32::from(POOL_FIRST));
    assert_eq!(pool.ready(), u32::from(POOL_FIRST));
    assert_eq!(pool.free(), u32::from(POOL_BUFFERS), "and none is lost");
}

#[test]
fn the_kernel_cannot_name_a_buffer_of_the_stock() {
    let pool = Pool::new();
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        pool.filled(POOL_FIRST, 1, 0).is_none()
    }));
    assert!(refused.unwrap_or(true), "a debug build says so aloud");
    assert_eq!(pool.lent(), 0);
}

#[test]
fn a_share_counts_only_while_less_than_half_is_free() {
    let pool = full();
    let half = POOL_BUFFERS / 2;
    let lend = |ids: std::ops::Range<u16>, to| -> Vec<Chunk> {
        ids.map(|id| pool.filled(id, 1, to).expect("it is free"))
            .collect()
    };
    let heavy = lend(0..half, 1);
    assert!(!pool.is_short(1), "half of them are free");
    let light = lend(half..half + 1, 2);
    assert!(pool.is_short(1) && !pool.is_short(2));
    let more = lend(half + 1..POOL_BUFFERS - POOL_LOW + 1, 3);
    assert!(pool.is_short(2), "little is left for anybody");
    drop((heavy, light, more));
}

#[test]
fn a_forgotten_connection_leaves_its_successor_no_charge() {
    let pool = Pool::new();
    let late = pool.filled(0, 1, 2).expect("buffer 0 is free");
    pool.forget(2);
    assert_eq!(pool.charged(2), 0);
    let fresh = pool.filled(1, 1, 2).expect("buffer 1 is free");
    drop(late);
    assert_eq!(pool.charged(2), 1);
    drop(fresh);
    assert_eq!(pool.charged(2), 0);
}

#[test]
#[expect(clippy::reversed_empty_ranges, reason = "a user may compute one")]
fn ranges_beyond_the_end_are_cut_to_it() {
    let pool = Pool::new();
    let mut chunk = pool.filled(0, 10, 0).expect("buffer 0 is free");
    assert_eq!(chunk.slice(5..100).len(), 5);
    assert_eq!(chunk.slice(20..).len(), 0);
    assert_eq!(chunk.slice(8..2).len(), 0);
    assert_eq!(chunk.split_to(99).len(), 10);
    chunk.advance(1);
    chunk.truncate(1);
    assert!(chunk.is_empty());
    assert_eq!(pool.lent(), 1, "an emptied chunk still holds its buffer");
}

#[test]
fn bytes_moved_to_the_heap_stay_the_same_and_free_the_buffer() {
    let pool = Pool::new();
    let chunk = pool.filled(0, 10, 0).expect("buffer 0 is free").into_heap();
    assert_eq!((pool.lent(), chunk.is_pooled()), (0, false));
    assert_eq!(&*chunk, &[0; 10]);
}
