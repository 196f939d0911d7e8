//! Network interfaces, made and set up by rtnetlink, which needs no program
//! that a fresh machine may lack.

use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::{Namespace, checked};

/// The parts of a veth's message that libc has no names for.
const INFO_KIND: u16 = 1;
/// See `INFO_KIND`.
const INFO_DATA: u16 = 2;
/// See `INFO_KIND`.
const VETH_INFO_PEER: u16 = 1;
/// An address of which no duplicate is looked for, so that it serves at once.
const NO_DUPLICATE_DETECTION: u8 = 2;
/// `SIOCETHTOOL`, and its command that sets whether the device makes checksums.
const ETHTOOL: libc::c_ulong = 0x8946;
/// See `ETHTOOL`.
const SET_TRANSMIT_CHECKSUM: u32 = 0x17;

/// Makes two joined interfaces: `near` in this namespace, `far` in another.
pub(crate) fn join(near: &str, far: &str, other: &Namespace) -> io::Result<()> {
    let mut peer = interface(0, 0);
    attribute(&mut peer, libc::IFLA_IFNAME, &named(far));
    let fd = other.fd().to_ne_bytes();
    attribute(&mut peer, libc::IFLA_NET_NS_FD, &fd);
    let mut data = Vec::new();
    attribute(&mut data, VETH_INFO_PEER, &peer);
    let mut info = Vec::new();
    attribute(&mut info, INFO_KIND, b"veth\0");
    attribute(&mut info, INFO_DATA, &data);
    let mut body = interface(0, 0);
    attribute(&mut body, libc::IFLA_IFNAME, &named(near));
    attribute(&mut body, libc::IFLA_LINKINFO, &info);
    let create = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
    ask(libc::RTM_NEWLINK, create, &body)
}

/// Raises an interface of this namespace.
pub(crate) fn raise(name: &str) -> io::Result<()> {
    ask(libc::RTM_NEWLINK, 0, &interface(index(name)?, libc::IFF_UP))
}

/// Gives an interface of this namespace an address.
pub(crate) fn give_address(name: &str, address: IpAddr, prefix: u8) -> io::Result<()> {
    let (family, bytes) = match address {
        IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
    };
    // struct ifaddrmsg: family, length of the prefix, flags, scope, interface.
    let mut body = vec![family as u8, prefix, NO_DUPLICATE_DETECTION, 0];
    body.extend_from_slice(&index(name)?.to_ne_bytes());
    attribute(&mut body, libc::IFA_LOCAL, &bytes);
    attribute(&mut body, libc::IFA_ADDRESS, &bytes);
    let create = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
    ask(libc::RTM_NEWADDR, create, &body)
}

/// Makes the kernel write whole checksums on what leaves by an interface of
/// this namespace, and cut it to frames of the wire's size: what a program
/// takes from the wire and puts back is then a frame like any other.
pub(crate) fn send_whole_frames(name: &str) -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // struct ethtool_value: the command and its one word.
    let mut value = [SET_TRANSMIT_CHECKSUM, 0];
    // SAFETY: an ifreq of zero bytes is a valid one with an empty name.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: SIOCETHTOOL reads one ifreq and, by its pointer, the two words
    // of `value`; both are live.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), ETHTOOL as _, &mut request) };
    checked(result).map(drop)
}

/// The index of an interface of this namespace.
pub(crate) fn index(name: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: `name` is a live string that ends in a zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// A name as the kernel reads it: with a zero at its end.
fn named(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// A struct ifinfomsg: family and type, index, flags, and which flags to set.
fn interface(index: u32, flags: i32) -> Vec<u8> {
    let words = [0, index, flags as u32, flags as u32];
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Appends one attribute, padded to four bytes.
fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = (4 + value.len()) as u16;
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// Sends one request and waits for the kernel's answer to it.
fn ask(kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    // SAFETY: socket takes three numbers and touches no memory.
    let fd = unsafe {
        libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::NETLINK_ROUTE,
        )
    };
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(checked(fd)?) };
    let flags = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let mut message = Vec::with_capacity(16 + body.len());
    message.extend_from_slice(&(16 + body.len() as u32).to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    // The sequence and the sender: there is one request on this socket.
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(body);
    let fd = socket.as_raw_fd();
    // SAFETY: `message` is live and as long as the call is told; it is only read.
    let sent = unsafe { libc::send(fd, message.as_ptr().cast(), message.len(), 0) };
    checked(sent as i32)?;
    let mut answer = [0_u8; 4096];
    // SAFETY: `answer` is live and as long as the call is told.
    let length = unsafe { libc::recv(fd, answer.as_mut_ptr().cast(), answer.len(), 0) };
    checked(length as i32)?;
    // The header, then struct nlmsgerr, which begins with the negative errno.
    let error = [answer[16], answer[17], answer[18], answer[19]];
    match i32::from_ne_bytes(error) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}
