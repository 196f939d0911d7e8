//! Whole frames, taken from one interface and put onto another.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use super::{checked, link};

/// Bytes that one frame may take in the ring: its headers, and what an
/// interface carries whose frames are cut to 1,500 bytes.
const PLACE_BYTES: usize = 2048;
/// Frames in the ring: some seconds of the load that the tests make, so that
/// none is lost while other things have the processors.
const PLACES: usize = 16_384;
/// Bytes of one block, which the kernel wants in one piece.
const BLOCK_BYTES: usize = 1 << 16;

/// A packet socket on one interface, with a ring that the kernel fills.
#[derive(Debug)]
pub(crate) struct Wire {
    /// The socket; the ring is its.
    fd: OwnedFd,
    /// The ring: `PLACES` places of `PLACE_BYTES`, mapped as long as this lives.
    ring: *mut u8,
    /// The place of the frame that comes next.
    next: usize,
}

impl Wire {
    /// Taps an interface of this namespace.
    pub(crate) fn tap(name: &str) -> io::Result<Wire> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: socket takes three numbers and touches no memory.
        let fd = checked(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let on: libc::c_int = 1;
        let version = libc::tpacket_versions::TPACKET_V2 as libc::c_int;
        set(&fd, libc::PACKET_VERSION, &version)?;
        // Only what comes in by it: what this side puts onto it is on its way already.
        set(&fd, libc::PACKET_IGNORE_OUTGOING, &on)?;
        set(&fd, libc::PACKET_QDISC_BYPASS, &on)?;
        let ring = libc::tpacket_req {
            tp_block_size: BLOCK_BYTES as u32,
            tp_block_nr: (PLACES * PLACE_BYTES / BLOCK_BYTES) as u32,
            tp_frame_size: PLACE_BYTES as u32,
            tp_frame_nr: PLACES as u32,
        };
        set(&fd, libc::PACKET_RX_RING, &ring)?;
        let ring = map(&fd)?;
        bind(&fd, link::index(name)?)?;
        Ok(Wire { fd, ring, next: 0 })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// The next frame that has come, and how long ago that was.
    pub(crate) fn take(&mut self) -> Option<(Vec<u8>, Duration)> {
        // SAFETY: `next` is below PLACES, so the place lies within the mapping.
        let place = unsafe { self.ring.add(self.next * PLACE_BYTES) };
        // SAFETY: a place begins with its status, a word that kernel and
        // program hand to and fro; places are aligned to their own size.
        let status = unsafe { AtomicU32::from_ptr(place.cast()) };
        if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: the status says that the place is the program's, and that the
        // kernel has written the header, of which any bytes are a valid value.
        let header = unsafe { ptr::read(place.cast::<libc::tpacket2_hdr>()) };
        let (start, length) = (header.tp_mac as usize, header.tp_snaplen as usize);
        let whole = header.tp_snaplen == header.tp_len && start + length <= PLACE_BYTES;
        assert!(whole, "a frame of {} bytes fits no place", header.tp_len);
        let mut frame = vec![0; length];
        // SAFETY: the frame lies within its place, as was just asserted.
        let source = unsafe { place.add(start) };
        // SAFETY: both are `length` bytes, and `frame` is no part of the ring.
        unsafe { ptr::copy_nonoverlapping(source, frame.as_mut_ptr(), length) };
        status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = (self.next + 1) % PLACES;
        let came = Duration::new(header.tp_sec.into(), header.tp_nsec);
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Some((frame, now.saturating_sub(came)))
    }

    /// Puts a frame onto the wire.
    pub(crate) fn put(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: `frame` is live and as long as the call is told; it is only read.
        let sent = unsafe { libc::send(self.fd(), frame.as_ptr().cast(), frame.len(), 0) };
        checked(sent as i32).map(drop)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this length, and nothing
        // borrows from it.
        unsafe { libc::munmap(self.ring.cast(), PLACES * PLACE_BYTES) };
    }
}

fn set<T>(fd: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let size = size_of::<T>() as libc::socklen_t;
    let value = ptr::from_ref(value).cast();
    // SAFETY: `value` is live and of the size given; the kernel copies it.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_PACKET, option, value, size) };
    checked(result).map(drop)
}

fn map(fd: &OwnedFd) -> io::Result<*mut u8> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let length = PLACES * PLACE_BYTES;
    // SAFETY: a new mapping at a place of the kernel's choice touches no
    // memory that is in use.
    let ring = unsafe {
        libc::mmap(
            ptr::null_mut(),
            length,
            access,
            libc::MAP_SHARED,
            fd.as_raw_fd(),
            0,
        )
    };
    if ring == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(ring.cast())
}

/// Lets the socket see all that comes in by one interface.
fn bind(fd: &OwnedFd, index: u32) -> io::Result<()> {
    // SAFETY: a sockaddr_ll of zero bytes is a valid one.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index as i32;
    let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is live and of the size given; the kernel copies it.
    let result = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size) };
    checked(result).map(drop)
}
