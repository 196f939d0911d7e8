//! TCP: listeners, one a core, and streams.
//!
//! A handle names a record that the core keeps: the record owns the socket, the operations in the
//! kernel and the bytes. So dropping a future that waits (a `recv`, an `accept`, a `send`) loses
//! neither a byte nor a connection, and dropping a stream closes it in order: what was written is
//! flushed, the FIN follows it, and what the peer still sends is read and thrown away until it
//! has everything.

#![forbid(unsafe_code)]

mod connect;
mod group;
mod listener;
mod payload;
mod record;
mod split;
mod stream;

pub use crate::config::DrainPolicy;
pub use crate::io::errors::{TooLate, WriteError};
pub use crate::ring::chunk::Chunk;
pub use group::Listener;
pub use listener::TcpListener;
pub use payload::Payload;
pub use record::{NextRequest, Receiving, Sending};
pub use split::{ReadHalf, WriteHalf};
pub use stream::TcpStream;
