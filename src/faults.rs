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
//! | The kernel lacks what is newer than Linux 6.1 | All works without; see [`as_on_oldest_kernel`](crate::Builder::as_on_oldest_kernel) | `src/ring/tests/features.rs::a_ring_as_on_the_oldest_kernel_uses_nothing_newer` |
//! | More completions than their queue holds | The kernel keeps them; none is lost | `src/ring/tests/queues.rs::completions_that_find_their_queue_full_are_not_lost` |
//! | More submissions than their queue holds | They wait in a list, in their order; also cancels | `src/core/schedules/mod.rs::whatever_the_kernel_answers_nothing_is_lost_and_nothing_is_left` |
//! | No receive buffer is left | Receives wait in a list, longest first, and go on as buffers come back | `src/core/schedules/mod.rs::whatever_the_kernel_answers_nothing_is_lost_and_nothing_is_left` |
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
//! | A peer that sends more than is read | Its receive stops at 128 KiB, the rest stays in the kernel | `fair::a_stream_brings_no_more_than_its_bound_in_a_turn` |
//! | A peer that trickles, or says nothing | As the user decides: a [`timeout`](crate::time::timeout) round `recv` loses no byte | `rude::a_client_that_drips_is_let_go_by_a_timeout_round_recv_and_no_byte_is_lost`, `loss::recvs_dropped_after_one_poll_lose_no_byte` |
//! | Garbage | Bytes are bytes | `rude::garbage_comes_back_from_the_echo_example_byte_for_byte` |
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
//! | The destructor of a payload panics | The bytes were sent, and the connection goes on | `panics::a_payload_whose_destructor_panics_is_sent_whole` |
//! | A waker panics when it is cloned | Whoever polled with it panics | `panics::a_waker_that_panics_when_it_is_cloned_woken_or_dropped_harms_nobody` |
//! | A waker panics when it is woken or dropped | Nothing | `panics::a_waker_that_panics_when_it_is_cloned_woken_or_dropped_harms_nobody` |
//! | A destructor spawns, writes or stops while its task unwinds | It may | `panics::a_destructor_may_spawn_send_and_stop_while_its_task_unwinds` |
//! | What a stop drops panics | The stop goes on | `panics::what_a_stop_drops_may_panic_and_the_stop_goes_on` |
//! | A thread-local keeps streams, chunks and handles | They outlive the core, and say that it has ended | `panics::what_a_thread_local_keeps_outlives_the_core_in_peace` |
//! | A task hangs | The core is left out of the stop, and the task is named | `stuck::the_siblings_clients_do_not_notice_a_stuck_core` |
//! | A number at either end of its range | It is refused in words, or does what it says | `limits::durations_and_counts_at_their_ends_are_refused_in_words_or_do_what_they_say`, `src/config/shutdown/tests.rs::durations_beyond_a_century_are_clamped_and_never_overflow` |
//!
//! A panic in the destructor of a thread-local, and one in a destructor that runs because of another
//! panic, end the process: that is the rule of the language. No destructor of the runtime's panics.
//!
//! # The runtime itself
//!
//! | fault | what happens | shown by |
//! |---|---|---|
//! | A turn panics, by a defect | That core ends: its connections are reset and counted, its listeners closed, its letters returned. The others stop in order, and the verdict is [`Failed`](crate::report::Verdict) | `src/runtime/tests/struck.rs::a_turn_that_panics_ends_its_core_alone_and_its_connections_are_accounted_for`, `src/runtime/tests/struck.rs::a_turn_may_panic_in_any_phase_and_the_stop_still_ends` |
//! | It panics again in ending | What it had is leaked; nobody waits for it | `src/runtime/tests/struck.rs::a_core_that_fails_in_failing_too_is_given_up_and_nobody_waits_for_it` |
//! | It had hooks | The one under way is recorded; those of the process that are left run on the next core | `src/runtime/tests/struck.rs::hooks_that_a_failed_core_had_are_told_and_those_of_the_process_run_elsewhere` |
//! | The coordinator hangs | A timer ends the process | `dead_man::a_wedged_coordinator_ends_by_the_dead_man` |

#![forbid(unsafe_code)]
