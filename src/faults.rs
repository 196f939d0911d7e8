//! What goes wrong, what happens then, and the test that shows it.
//!
//! Three rules stand behind the rows. What fails is told to whoever asked for it, and counted in the
//! [report](crate::report). What fails ends the smallest thing that it belongs to: a connection, a
//! task, a core, in that order. And nothing that a peer, the kernel or a user's value can bring
//! about makes the library panic, print, or wait without a bound.
//!
//! A test is named as `module::test` where real processes keep it (`tests/it`), and as
//! `src/file.rs::test` where it is a unit test. A test of its own sees to it that each exists.
//!
//! # Limits of the process and of the kernel
//!
//! | fault | what happens | shown by |
//! |---|---|---|
//! | No file descriptor, or no memory, to accept with | The accept pauses for 100 ms, or until a connection is closed. Those that are open are served, clients wait in the backlog, none is lost; the report says how often and why, once for an address | `limits::a_flood_beyond_the_descriptors_is_served_in_turn_and_nobody_is_lost`, `src/core/schedules/errnos.rs::an_accept_that_finds_no_descriptor_waits_and_says_so_in_the_report`, `src/report/tests/looks.rs::an_accept_that_paused_is_told_once_for_each_address` |
//! | None at the end of a stop either | Who is in the backlog is refused, and the listener is named as a straggler | `listening::a_backlog_that_no_descriptor_is_left_for_is_given_up_at_the_cut_and_named` |
//! | None for the start | [`build`](crate::Builder::build) fails, names the limit, and leaves nothing behind | `start_up::a_core_that_fails_to_start_fails_build_and_leaves_nothing` |
//! | Too little locked memory | The ring is made with fewer completions; where that is too much, too, the error names the limit, its value and the remedy | `limits::too_little_locked_memory_is_named_with_its_remedy_and_enough_of_it_is_enough` |
//! | io_uring is switched off, filtered or not there | `build` fails and names what refuses it, and the remedy | `refused::a_ring_refused_by_seccomp_names_cause_and_remedy`, `refused::a_kernel_without_rings_is_named_as_such` |
//! | The kernel lacks what is newer than Linux 6.1 | All works without; see [`as_on_oldest_kernel`](crate::Builder::as_on_oldest_kernel) | `src/ring/tests/features.rs::a_ring_as_on_the_oldest_kernel_uses_nothing_newer`, `src/ring/tests/multishot.rs::a_kernel_that_knows_no_bound_brings_one_buffer_at_a_time` |
//! | More completions than their queue holds | The kernel keeps them; none is lost, and the report counts how often ([`overflows`](crate::report::Ops::overflows)) | `queues::hundreds_of_connections_on_queues_of_8_and_16_lose_nothing`, `src/ring/tests/queues.rs::completions_that_find_their_queue_full_are_not_lost`, `src/ring/tests/queues.rs::not_all_is_seen_while_completions_wait_for_room_in_their_queue` |
//! | More submissions than their queue holds | They wait in a list, in their order; also cancels ([`waited`](crate::report::Ops::waited)) | `queues::a_stop_of_hundreds_of_connections_on_queues_of_8_and_16_is_clean`, `src/core/schedules/mod.rs::whatever_the_kernel_answers_nothing_is_lost_and_nothing_is_left` |
//! | No receive buffer is left | Receives wait in a list, longest first, and go on as buffers come back ([`ran_out`](crate::report::Buffers::ran_out)) | `queues::sixty_four_streams_that_run_out_of_buffers_lose_no_byte`, `queues::of_sixty_four_streams_that_run_out_of_buffers_none_is_left_behind`, `queues::who_asks_behind_hundreds_that_have_nothing_to_say_is_answered`, `src/core/schedules/mod.rs::whatever_the_kernel_answers_nothing_is_lost_and_nothing_is_left` |
//! | The same, and a peer goes on sending to a connection that is not read | It is not fed: it holds no more than its limit and what one receive brings | `src/io/sequences/limits.rs::a_connection_that_has_its_fill_is_not_fed_for_want_of_buffers` |
//! | The kernel refuses to enter the ring | That core ends, as one whose turn panics | `failure::a_core_whose_ring_fails_stops_the_runtime_and_fails_alone` |
//! | A core gets no processor | It is not taken for one that hangs | `starved::a_core_that_has_no_processor_is_said_to_have_none` |
//!
//! # Errors of sockets
//!
//! | fault | what happens | shown by |
//! |---|---|---|
//! | An accept fails for one connection (ECONNABORTED, EPROTO, EPERM, a network error) | The next one is accepted; also in the sweep of a stop | `src/core/schedules/errnos.rs::an_accept_that_fails_for_one_connection_goes_on_with_the_next`, `src/core/schedules/errnos.rs::a_sweep_takes_everybody_whatever_an_accept_says_in_between` |
//! | Every accept fails | From the sixteenth in a row on it pauses as for want of descriptors | `src/core/schedules/errnos.rs::a_policy_that_refuses_every_accept_does_not_keep_the_core_busy` |
//! | The listener is broken (EBADF, EINVAL, ENOTSOCK, EOPNOTSUPP, EFAULT) | Every `accept` says so, and `serve` ends with that error | `src/core/schedules/errnos.rs::a_listener_that_is_broken_tells_every_accept` |
//! | A receive fails | The error is told to the reader, after the bytes that came before; writes fail, too | `src/core/schedules/errnos.rs::what_breaks_a_connection_is_told_to_who_reads_and_to_who_writes` |
//! | A send fails | The connection's next call says so, with the errno and the bytes the kernel took ([`WriteError`](crate::net::WriteError)) | `src/core/schedules/errnos.rs::a_send_that_fails_is_told_with_its_errno_and_what_was_taken`, `hung_up::a_write_that_was_queued_and_failed_says_how_much_the_kernel_took` |
//! | A send is to be made again (EAGAIN, EINTR) | It is | `src/core/schedules/errnos.rs::a_send_that_is_to_be_made_again_is_made_again` |
//! | A connect is refused, or nobody answers | It is an error of that call | `network::a_refused_connect_is_an_error`, `network::a_connect_that_nobody_answers_times_out` |
//!
//! # Peers
//!
//! | fault | what happens | shown by |
//! |---|---|---|
//! | A reset before the accept | The connection is accepted, and its first call says so | `rude::a_peer_that_resets_before_it_is_accepted_is_accepted_and_its_error_told` |
//! | A reset between requests, in the midst of one, of an answer | The pending call and those that follow say so; nobody else notices | `rude::a_peer_that_resets_after_it_is_accepted_is_an_error_of_the_next_call`, `rude::a_peer_that_resets_in_the_midst_of_a_request_is_told_to_the_reader`, `rude::a_peer_that_resets_in_the_midst_of_an_answer_is_told_to_the_writer`, `failure::a_reset_by_the_peer_is_an_error_of_that_connection_alone` |
//! | A reset while its connection closes | The close ends, at once and with an error, and what was not acknowledged is counted | `rude::a_peer_that_resets_while_its_connection_lingers_ends_the_close_with_an_error`, `rude::a_peer_that_is_gone_when_its_answer_comes_is_not_lingered_for` |
//! | A reset in a stop | The stop does not wait for it | `rude::a_peer_that_resets_while_the_core_drains_holds_nothing_up` |
//! | A peer that takes nothing | Its writer waits at 256 KiB; a close waits for `linger`, then resets and counts | `traffic::bursts_that_nobody_reads_come_back_whole_in_bounded_memory`, `hung_up::a_write_that_waits_for_room_ends_when_the_peer_resets` |
//! | A peer that sends more than is read | Its receive stops at 128 KiB (before Linux 6.17 at 64), the rest stays in the kernel | `fair::a_stream_brings_no_more_than_its_bound_in_a_turn` |
//! | A peer that trickles, or says nothing | As the user decides: a [`timeout`](crate::time::timeout) round `recv` loses no byte | `rude::a_client_that_drips_is_let_go_by_a_timeout_round_recv_and_no_byte_is_lost`, `loss::recvs_dropped_after_one_poll_lose_no_byte` |
//! | Garbage | Bytes are bytes | `rude::garbage_comes_back_from_the_echo_example_byte_for_byte` |
//!
//! # What a peer can make grow, and its cap
//!
//! None of it grows without a bound by a peer's doing. Of one connection a core holds at most the sum
//! of the rows below; of all of them, as many times that as
//! [`max_connections`](crate::Builder::max_connections) or the limit on descriptors allows.
//!
//! | what | its cap | shown by |
//! |---|---|---|
//! | Connections of a core | The limit on descriptors, or [`max_connections`](crate::Builder::max_connections): who comes next waits in the kernel's backlog. Those that close count, too | `bounds::of_a_flood_a_core_takes_as_many_as_it_may_and_serves_the_others_in_turn`, `bounds::a_stop_at_the_limit_serves_whoever_is_in_the_backlog`, `limits::a_flood_beyond_the_descriptors_is_served_in_turn_and_nobody_is_lost` |
//! | Handshakes | The kernel's: 4096 complete ones in a listener's backlog or `net.core.somaxconn`, and half-open ones as `net.ipv4.tcp_max_syn_backlog` says. None of it is memory of the process | `traffic::at_the_limit_of_descriptors_connections_wait_and_are_served` |
//! | Handlers of a listener | One task a connection, of one block on the heap; fewer at a time with [`serve_limited`](crate::net::TcpListener::serve_limited), and then 1,024 connections wait accepted, or as many as came at once, before the accept is called back and the others stay in the backlog | `memory::an_idle_connection_takes_300_bytes_of_the_heap_at_most`, `src/io/sequences/limits.rs::a_flood_that_nobody_takes_waits_in_the_backlog_beyond_the_queue`, `limits::durations_and_counts_at_their_ends_are_refused_in_words_or_do_what_they_say` |
//! | Bytes that came and nobody reads | 128 KiB and the rest of a buffer of 16 KiB for each connection, before Linux 6.17 half of it and that; the rest stays in the kernel | `bounds::senders_that_nobody_reads_are_held_to_their_bound_each`, `traffic::an_upload_of_100_mib_to_a_slow_reader_takes_bounded_memory`, `fair::a_stream_brings_no_more_than_its_bound_in_a_turn` |
//! | Receive buffers | 512 of 16 KiB for each core, made once. A connection that holds more than its share of a short pool has what comes copied, within the bound above | `src/ring/buffers/tests.rs::a_share_counts_only_while_less_than_half_is_free`, `queues::sixty_four_streams_that_run_out_of_buffers_lose_no_byte` |
//! | Bytes that a peer does not take | 256 KiB are queued, and one piece more of what is sent; then whoever writes waits | `traffic::bursts_that_nobody_reads_come_back_whole_in_bounded_memory`, `hung_up::a_write_that_waits_for_room_ends_when_the_peer_resets` |
//! | The time a close takes | [`linger`](crate::Shutdown::linger) from the peer's last acknowledged byte, whatever else it sends; who acknowledges something each time keeps its place, and counts as a connection | `bounds::a_peer_that_talks_on_behind_our_fin_is_let_go_when_it_has_lingered`, `src/io/sequences/limits.rs::a_peer_that_drips_behind_our_fin_is_let_go_at_the_cap_of_its_time`, `clients::linger_counts_from_the_last_acknowledged_byte` |
//! | The time a request takes | What the user gives it: a [`timeout`](crate::time::timeout) round `recv` | `rude::a_client_that_drips_is_let_go_by_a_timeout_round_recv_and_no_byte_is_lost` |
//! | What a core keeps for connections that were | Nothing that grows with their number | `memory::twenty_thousand_connections_that_came_and_went_leave_nothing` |
//! | The report of a stop | A thousand names of a kind, and one line for the others | `crowd::of_1_200_connections_that_are_cut_a_thousand_are_named`, `src/guard.rs::of_a_crowd_of_guards_a_thousand_are_named_and_the_others_counted` |
//!
//! Letters, tasks, timers, hooks and guards are a user's to bound: no peer makes one but by way of a
//! handler.
//!
//! # What is said of a peer
//!
//! | what | where | shown by |
//! |---|---|---|
//! | Which bytes it sent | Nowhere: no report, no error and no `Debug` of a value of this crate's has them. What a user's own error or panic says is the user's | `secrets::no_report_and_no_value_shows_what_a_peer_has_sent` |
//! | Its address | In the report its network alone, unless [`name_peers`](crate::Builder::name_peers) asks for more; in the `Debug` of its stream, as in the standard library's | `secrets::a_peer_is_named_by_its_network_and_by_its_address_only_if_asked` |
//! | Its connection | In no child of the process: each descriptor is closed on exec | `children::no_descriptor_of_a_server_at_work_is_inherited_by_a_child`, `children::children_that_begin_and_end_meanwhile_disturb_nobody` |
//!
//! # User code
//!
//! | fault | what happens | shown by |
//! |---|---|---|
//! | A task panics, or its future's or output's destructor | That task ends; its [`JoinHandle`](crate::JoinHandle) says so | `panics::a_panic_of_a_future_its_destructor_or_its_output_ends_that_task_alone`, `panics::a_task_from_another_core_that_panics_ends_alone`, `panics::a_delayed_task_that_panics_or_is_dropped_badly_ends_alone` |
//! | A handler panics | Its connection ends | `failure::a_panic_in_a_handler_is_not_noticed_by_its_siblings` |
//! | A main future panics, or ends in an error | The runtime stops, and the report says why | `failure::a_main_future_that_panics_stops_the_runtime`, `failure::a_main_future_that_ends_in_an_error_stops_the_runtime` |
//! | The error panics when it is shown or dropped | As any error | `user_code::a_main_error_that_panics_when_it_is_shown_fails_the_main_alone`, `user_code::a_main_error_that_panics_when_it_is_dropped_fails_the_main_alone` |
//! | A hook panics, fails or overruns | It is recorded, and the next one runs | `hooks::a_hook_that_fails_panics_or_overruns_is_recorded_and_the_next_runs`, `panics::a_hook_whose_destructor_panics_is_recorded_and_the_next_runs` |
//! | What a main future or a hook has thrown panics when it is dropped | As any panic of theirs | `panics::a_main_that_throws_what_panics_when_it_is_dropped_fails_alone`, `panics::a_hook_that_throws_what_panics_when_it_is_dropped_is_recorded_and_the_next_runs` |
//! | The destructor of a payload panics | The bytes were sent, and the connection goes on | `panics::a_payload_whose_destructor_panics_is_sent_whole` |
//! | A waker panics when it is cloned | Whoever polled with it panics | `panics::a_waker_that_panics_when_it_is_cloned_woken_or_dropped_harms_nobody` |
//! | A waker panics when it is woken or dropped | Nothing; but whoever drops a future that has it panics, as in dropping it | `panics::a_waker_that_panics_when_it_is_cloned_woken_or_dropped_harms_nobody` |
//! | A destructor spawns, writes or stops while its task unwinds | It may | `panics::a_destructor_may_spawn_send_and_stop_while_its_task_unwinds` |
//! | What a stop drops panics | The stop goes on | `panics::what_a_stop_drops_may_panic_and_the_stop_goes_on` |
//! | A thread-local keeps streams, chunks and handles | They outlive the core, and say that it has ended | `panics::what_a_thread_local_keeps_outlives_the_core_in_peace` |
//! | A task hangs | The core is left out of the stop, and the task is named | `stuck::the_siblings_clients_do_not_notice_a_stuck_core` |
//! | A number at either end of its range | It is refused in words, or does what it says | `limits::durations_and_counts_at_their_ends_are_refused_in_words_or_do_what_they_say`, `tidy::whatever_takes_a_number_is_tried_at_its_ends`, `src/config/shutdown/tests.rs::durations_beyond_a_century_are_clamped_and_never_overflow` |
//!
//! A panic in the destructor of a thread-local, and one in a destructor that runs because of another
//! panic, end the process: that is the rule of the language. No destructor of the runtime's panics.
//!
//! # The runtime itself
//!
//! | fault | what happens | shown by |
//! |---|---|---|
//! | A turn panics, by a defect | That core ends: its connections are reset and counted, its listeners closed, its letters returned. The others stop in order, and the verdict is [`Failed`](crate::report::Verdict) | `src/runtime/tests/struck.rs::a_turn_that_panics_ends_its_core_alone_and_its_connections_are_accounted_for`, `src/runtime/tests/struck.rs::a_turn_may_panic_in_any_phase_and_the_stop_still_ends` |
//! | The driver panics as it submits | As a turn that panics; in a task's poll it is that task's panic | `src/runtime/tests/struck/driver.rs::a_driver_that_panics_as_it_submits_ends_its_core_alone`, `src/runtime/tests/struck/driver.rs::a_driver_that_panics_in_a_tasks_poll_ends_that_task_and_the_stop_still_ends` |
//! | A turn panics with a user's values in its hands | They are dropped when it has unwound | `src/runtime/tests/struck/driver.rs::a_turn_that_panics_with_a_users_things_in_its_hands_drops_them_when_it_has_unwound` |
//! | What such a core still had to send panics when it is dropped | As any payload | `src/runtime/tests/struck/driver.rs::what_a_failed_core_had_to_send_may_panic_as_it_is_dropped` |
//! | It panics again in ending | What it had is leaked; nobody waits for it | `src/runtime/tests/struck.rs::a_core_that_fails_in_failing_too_is_given_up_and_nobody_waits_for_it` |
//! | It had hooks | The one under way is recorded; those of the process that are left run on the next core | `src/runtime/tests/struck.rs::hooks_that_a_failed_core_had_are_told_and_those_of_the_process_run_elsewhere` |
//! | The coordinator hangs | A timer ends the process | `dead_man::a_wedged_coordinator_ends_by_the_dead_man` |

#![forbid(unsafe_code)]
