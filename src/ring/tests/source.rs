//! What the tests read from: pipes with nothing in them, and a file that is read past the cache.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::quarantine::Quarantine;

/// Bytes of one read.
pub(crate) const READ_BYTES: usize = 64 * 1024;

/// Reads in flight at once.
pub(crate) const READS: usize = 64;

/// What a pipe of any capacity takes at once.
pub(crate) const PIECE: usize = 4096;

/// What all data is made of. Neither zero nor the poison.
pub(crate) const DATA: u8 = 0x5a;

/// A pipe. Both ends are blocking, so that a read waits in the ring for data.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) reader: Rc<OwnedFd>,
    pub(crate) writer: File,
}

impl Pipe {
    pub(crate) fn new() -> Pipe {
        let mut ends = [-1; 2];
        // SAFETY: `ends` is room for two descriptors; pipe2(2) keeps no reference.
        let result = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
        assert_eq!(result, 0, "pipe2: {}", std::io::Error::last_os_error());
        // SAFETY: made by the call above, and nobody else has it.
        let reader = unsafe { OwnedFd::from_raw_fd(ends[0]) };
        // SAFETY: as above.
        let writer = unsafe { OwnedFd::from_raw_fd(ends[1]) };
        Pipe {
            reader: Rc::new(reader),
            writer: File::from(writer),
        }
    }

    /// Puts one piece in. It does not block: two pieces fit into every pipe, and no more come.
    pub(crate) fn put(&self) {
        (&self.writer)
            .write_all(&[DATA; PIECE])
            .expect("the pipe has a reader");
    }

    /// How many bytes are in the pipe.
    pub(crate) fn unread(&self) -> usize {
        let mut count: libc::c_int = 0;
        // SAFETY: FIONREAD writes one int to a live one; ioctl(2) keeps no reference.
        let result =
            unsafe { libc::ioctl(self.reader.as_raw_fd(), libc::FIONREAD, &raw mut count) };
        assert_eq!(result, 0, "FIONREAD: {}", std::io::Error::last_os_error());
        usize::try_from(count).expect("a count")
    }

    /// Takes out all that is in the pipe.
    pub(crate) fn take(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.unread()];
        let reader = self.reader.try_clone().expect("a descriptor");
        File::from(reader)
            .read_exact(&mut bytes)
            .expect("the bytes that FIONREAD counted");
        bytes
    }
}

/// Gives each pipe a piece: a read that is still in the kernel would take it, and put it into a
/// freed buffer.
#[track_caller]
pub(crate) fn assert_nobody_reads(pipes: &[Pipe], quarantine: &Quarantine) {
    let left: Vec<usize> = pipes.iter().map(Pipe::unread).collect();
    pipes.iter().for_each(Pipe::put);
    // Once a pipe is empty again, no late read finds anything in it: only then one looks.
    let taken: Vec<usize> = pipes.iter().map(|pipe| pipe.take().len()).collect();
    quarantine.assert_untouched();
    for (left, taken) in left.into_iter().zip(taken) {
        assert_eq!(taken, left + PIECE, "somebody else read the pipe");
    }
}

/// A file of [`READS`] blocks of [`READ_BYTES`] that the device writes straight into the buffer.
#[derive(Debug)]
pub(crate) struct DirectFile {
    pub(crate) fd: Rc<OwnedFd>,
}

impl DirectFile {
    /// In the first directory that can hold one.
    pub(crate) fn new() -> DirectFile {
        let program = std::env::current_exe().expect("the program's path");
        let beside = program.parent().expect("a directory").to_path_buf();
        let places = [std::env::temp_dir(), beside, PathBuf::from("/var/tmp")];
        let mut reasons = Vec::new();
        for place in &places {
            match direct_file(place) {
                Ok(file) => {
                    return DirectFile {
                        fd: Rc::new(OwnedFd::from(file)),
                    };
                }
                Err(reason) => reasons.push(format!("{}: {reason}", place.display())),
            }
        }
        panic!(
            "this test needs a directory on a device that can be read with O_DIRECT; {}",
            reasons.join("; ")
        );
    }

    /// Where the block of that number begins.
    pub(crate) fn offset(number: usize) -> u64 {
        (number * READ_BYTES) as u64
    }

    /// Reads every block once more, by a call that waits: the device has by then answered what
    /// was asked of it before.
    pub(crate) fn reread(&self) {
        let quarantine = Quarantine::default();
        let mut buffer = quarantine.buffer(READ_BYTES);
        let file = File::from(self.fd.try_clone().expect("a descriptor"));
        for number in 0..READS {
            file.read_exact_at(buffer.bytes_mut(), DirectFile::offset(number))
                .expect("a block");
        }
    }
}

/// A file in `place` that is open with O_DIRECT and has no name any more.
fn direct_file(place: &Path) -> Result<File, String> {
    if in_memory(place)? {
        return Err("a file system in memory, where nothing is ever in flight".to_owned());
    }
    let told = |error: std::io::Error| error.to_string();
    let mut named = tempfile::NamedTempFile::new_in(place).map_err(told)?;
    named
        .write_all(&vec![DATA; READS * READ_BYTES])
        .map_err(told)?;
    named.as_file().sync_all().map_err(told)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(named.path())
        .map_err(told)?;
    let mut buffer = Quarantine::default().buffer(READ_BYTES);
    file.read_exact_at(buffer.bytes_mut(), 0).map_err(told)?;
    match buffer.bytes().iter().all(|&byte| byte == DATA) {
        true => Ok(file),
        false => Err("what was written is not what is read".to_owned()),
    }
}

/// Whether `place` is in a tmpfs, which takes O_DIRECT but has no device.
fn in_memory(place: &Path) -> Result<bool, String> {
    let path = CString::new(place.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    // SAFETY: a plain struct of integers, for which zero is a value.
    let mut about: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends in a zero byte, `about` is live; statfs(2) keeps neither.
    let result = unsafe { libc::statfs(path.as_ptr(), &raw mut about) };
    match result {
        0 => Ok(about.f_type == libc::TMPFS_MAGIC),
        _ => Err(std::io::Error::last_os_error().to_string()),
    }
}
