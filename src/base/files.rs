//! Reads files that the operator names: up to a limit, and without waiting forever. Replaces files as
//! a whole.
//!
//! A path may lead to a device without end or to a pipe that nobody writes to, by mistake or since
//! another program is not done. Pipes and devices as such are welcome: a shell's `<(...)` is one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// Longest configuration file, list of names or networks, bytes: a hundred times what is usual, and
/// within the memory of a small machine.
pub const LIST_BYTES_MAX: u64 = 512 << 20;
/// Longest file of certificates, keys or responses, bytes: all authorities together have 300 kB.
pub const CERTIFICATE_BYTES_MAX: u64 = 16 << 20;
/// Longest of both that comes from a pipe or a device, bytes: such a one may have no end, and is in
/// memory until that shows.
const STREAM_BYTES_MAX: u64 = 64 << 20;
/// How long a pipe may be silent. Its writer may ask another host for what it writes; the process
/// does not start meanwhile.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How long a pipe's writer may take in all: one that writes a byte at a time would hold a reload, and
/// all later ones, without end.
const WRITER_MAX: Duration = Duration::from_secs(60);

/// How many symbolic links are followed, one after the other; the kernel's own limit.
const LINKS_MAX: usize = 40;
/// Bytes that are written to a file at once.
const WRITE_BYTES: usize = 256 << 10;

/// Reads a whole file of at most `bytes_max`; a pipe or device of at most 64 MiB.
///
/// # Errors
/// Those of the operating system; that it is larger; that nothing was written to it, or not to its end.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    read_within(path, bytes_max, SILENCE_MAX, WRITER_MAX)
}

fn read_within(
    path: &Path,
    bytes_max: u64,
    silence_max: Duration,
    writer_max: Duration,
) -> io::Result<Vec<u8>> {
    // Otherwise the first of these waits for a pipe's writer, and the second may make a terminal
    // that of the process.
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    let metadata = file.metadata()?;
    let bytes_max = if metadata.is_file() { bytes_max } else { bytes_max.min(STREAM_BYTES_MAX) };
    let larger = || io::Error::other(format!("it is larger than {} MiB", bytes_max >> 20));
    let mut content = Vec::new();
    if metadata.is_file() {
        if metadata.len() > bytes_max {
            return Err(larger());
        }
        content.reserve(usize::try_from(metadata.len()).unwrap_or_default());
    }
    // A regular file needs no wait.
    let writer = if metadata.is_file() { None } else { Some(Writer::new(silence_max, writer_max)?) };
    loop {
        if let Some(writer) = &writer {
            writer.wait(&file)?;
        }
        // One more shows that it is larger.
        let rest = (bytes_max + 1).saturating_sub(content.len() as u64);
        match (&file).take(rest).read_to_end(&mut content) {
            Ok(_) if content.len() as u64 > bytes_max => return Err(larger()),
            Ok(_) => return Ok(content),
            // What was read is in `content`.
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
}

/// The patience with what writes to a pipe or device.
struct Writer {
    silence_max: Duration,
    writer_max: Duration,
    /// Can be read when `writer_max` is over.
    timer: TimerFd,
}

impl Writer {
    fn new(silence_max: Duration, writer_max: Duration) -> io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
        timer.set(Expiration::OneShot(TimeSpec::from_duration(writer_max)), TimerSetTimeFlags::empty())?;
        Ok(Self { silence_max, writer_max, timer })
    }

    /// Waits until a file can be read.
    fn wait(&self, file: &File) -> io::Result<()> {
        let timeout = PollTimeout::try_from(self.silence_max).map_err(io::Error::other)?;
        let late = |text: String| Err(io::Error::new(ErrorKind::TimedOut, text));
        loop {
            let mut either = [file.as_fd(), self.timer.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut either, timeout) {
                Ok(0) => {
                    return late(format!(
                        "nothing was written to it within {} s",
                        self.silence_max.as_secs()
                    ));
                }
                Ok(_) if either[1].any() == Some(true) => {
                    return late(format!(
                        "it was not written to its end within {} s",
                        self.writer_max.as_secs()
                    ));
                }
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Returns the directory that a path's file is in.
#[must_use]
pub fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns the one path of a file, by whichever it is named: absolute, without links, `.` and `..`. The
/// file need not be there, its directory has to.
///
/// # Errors
/// Those of the operating system; that the path has no file's name at its end.
pub fn resolved(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let name = path.file_name().ok_or_else(|| io::Error::other("it has no name"))?;
        let directory = directory(&path).canonicalize()?;
        let whole = directory.join(name);
        match fs::read_link(&whole) {
            Ok(target) => path = directory.join(target),
            // It is no link, or nothing at all.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound) => {
                return Ok(whole);
            }
            Err(error) => return Err(error),
        }
    }
    Err(Errno::ELOOP.into())
}

/// How the name of a file ends while [`replace`] writes it.
pub const UNFINISHED: &str = ".unfinished";

/// Replaces a file by what `write` writes: whoever opens the path gets the old file or the whole new
/// one, also after a crash. Only the process's user may read it. What is not finished is removed.
///
/// # Errors
/// Those of `write` and of the operating system; the old file is as it was.
pub fn replace<T>(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<T>) -> io::Result<T> {
    let mut name = path.file_name().ok_or_else(|| io::Error::other("it has no name"))?.to_owned();
    name.push(UNFINISHED);
    let unfinished = path.with_file_name(name);
    let create = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished);
    let file = create().or_else(|error| {
        if error.kind() != ErrorKind::AlreadyExists {
            return Err(error);
        }
        // Of a process that was killed meanwhile.
        fs::remove_file(&unfinished)?;
        create()
    })?;
    let made = file.metadata()?;
    let is_ours = || {
        fs::symlink_metadata(&unfinished)
            .is_ok_and(|there| (there.dev(), there.ino()) == (made.dev(), made.ino()))
    };
    let written = (|| {
        let mut buffered = BufWriter::with_capacity(WRITE_BYTES, file);
        let outcome = write(&mut buffered)?;
        let file = buffered.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        // Another process with the same path may have removed the file, and write its own.
        if !is_ours() {
            return Err(io::Error::other("another process is writing it too"));
        }
        fs::rename(&unfinished, path)?;
        Ok(outcome)
    })();
    if written.is_err() {
        if is_ours() {
            // The first error is the one to be told.
            let _ = fs::remove_file(&unfinished);
        }
        return written;
    }
    // The new name survives a crash of the machine; where directories cannot be synchronised, the old
    // file may be there.
    let _ = File::open(directory(path)).and_then(|parent| parent.sync_all());
    written
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use super::*;

    /// A path that is removed with its test.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("dnslob-files-{name}-{}", std::process::id()));
            let _ = std::fs::remove_file(&path);
            Self(path)
        }

        fn pipe(name: &str) -> Self {
            let place = Self::new(name);
            nix::unistd::mkfifo(&place.0, nix::sys::stat::Mode::S_IRWXU).expect("a named pipe");
            place
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn refused(path: &Path, bytes_max: u64) -> String {
        let (silence, writer) = (Duration::from_millis(20), Duration::from_secs(10));
        read_within(path, bytes_max, silence, writer).expect_err("a refusal").to_string()
    }

    #[test]
    fn a_file_is_read_up_to_the_limit() {
        let file = Place::new("limit");
        std::fs::write(&file.0, b"12345678").expect("a file");
        assert_eq!(read(&file.0, 8).expect("it fits"), b"12345678");
        assert_eq!(refused(&file.0, 7), "it is larger than 0 MiB");
        assert_eq!(refused(Path::new("/dev/zero"), 3 << 20), "it is larger than 3 MiB");
        assert_eq!(refused(Path::new("/dev/zero"), LIST_BYTES_MAX), "it is larger than 64 MiB");
        assert_eq!(read(Path::new("/dev/null"), 0).expect("nothing"), b"");
        assert!(!read(Path::new("/proc/self/stat"), 4096).expect("a file without a length").is_empty());
        assert!(refused(&std::env::temp_dir(), 8).contains("directory"));
        assert!(refused(&file.0.join("x"), 8).contains("directory"));
    }

    #[test]
    fn a_pipe_is_read_to_its_end_and_a_silent_one_refused() {
        let pipe = Place::pipe("pipe");
        assert_eq!(refused(&pipe.0, 8), "nothing was written to it within 0 s");
        let path = pipe.0.clone();
        let writer = std::thread::spawn(move || {
            let mut pipe = OpenOptions::new().write(true).open(path).expect("a reader");
            // More than a pipe holds, so that its reader has to wait.
            for _ in 0..100 {
                pipe.write_all(&[b'x'; 4_000]).expect("it is read");
            }
        });
        assert_eq!(read(&pipe.0, 1 << 20).expect("its text").len(), 400_000);
        writer.join().expect("it has written");
        // A writer that writes nothing.
        let _writer = OpenOptions::new().read(true).write(true).open(&pipe.0).expect("both ends");
        assert_eq!(refused(&pipe.0, 8), "nothing was written to it within 0 s");
    }

    #[test]
    fn a_pipe_that_trickles_is_given_up() {
        let pipe = Place::pipe("trickle");
        let path = pipe.0.clone();
        let writer = std::thread::spawn(move || {
            let mut pipe = OpenOptions::new().write(true).open(path).expect("a reader");
            while pipe.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let (silence, whole) = (Duration::from_secs(30), Duration::from_millis(300));
        let error = read_within(&pipe.0, 1 << 20, silence, whole).expect_err("it has no end");
        assert_eq!(error.to_string(), "it was not written to its end within 0 s");
        writer.join().expect("its reader has left");
    }

    #[test]
    fn a_shells_pipe_is_read_by_its_path() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        writer.write_all(b"text").expect("room");
        drop(writer);
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        assert_eq!(read(Path::new(&path), 8).expect("its text"), b"text");
    }

    #[test]
    fn a_file_has_one_path_however_it_is_named() {
        use std::os::unix::fs::symlink;

        let place = Place::new("resolved");
        let _ = fs::remove_dir_all(&place.0);
        fs::create_dir_all(place.0.join("disk")).expect("directories");
        let root = place.0.canonicalize().expect("a directory");
        for (target, link) in [
            ("disk", "link"),
            ("link/../one", "chain"),
            ("disk/none", "one"),
            ("loop", "loop"),
            ("no/x", "to-nothing"),
        ] {
            symlink(target, root.join(link)).expect("a link");
        }
        symlink(root.join("disk/file"), root.join("absolute")).expect("a link");
        let of = |path: &str| resolved(&root.join(path)).map_err(|error| error.to_string());
        for (path, expected) in [
            ("file", "file"),
            (".//disk/../file", "file"),
            ("link/file", "disk/file"),
            ("absolute", "disk/file"),
            ("one", "disk/none"),
            ("chain", "disk/none"),
            ("link", "disk"),
        ] {
            assert_eq!(of(path), Ok(root.join(expected)), "{path}");
        }
        assert!(of("loop").is_err_and(|why| why.contains("symbolic links")));
        assert!(of("to-nothing").is_err_and(|why| why.contains("No such file")));
        assert!(of("disk/..").is_err_and(|why| why == "it has no name"));
        let here = std::env::current_dir().and_then(|here| here.canonicalize()).expect("a directory");
        assert_eq!(resolved(Path::new("x")).expect("a path"), here.join("x"));
        fs::remove_dir_all(&place.0).expect("removed");
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_or_not_at_all() {
        let directory = Place::new("replaced");
        let _ = fs::remove_dir_all(&directory.0);
        fs::create_dir(&directory.0).expect("a directory");
        let path = directory.0.join("file");
        let names = || {
            let mut names: Vec<_> = fs::read_dir(&directory.0)
                .expect("a directory")
                .map(|e| e.expect("a name").file_name())
                .collect();
            names.sort();
            names
        };
        assert_eq!(replace(&path, |file| file.write_all(b"one").map(|()| 7)).expect("written"), 7);
        assert_eq!(fs::read(&path).expect("the file"), b"one");
        assert_eq!(fs::metadata(&path).expect("the file").mode() & 0o777, 0o600);
        // What a killed process has left is in nobody's way.
        fs::write(directory.0.join("file.unfinished"), b"half").expect("a file");
        replace(&path, |file| file.write_all(b"two")).expect("written");
        assert_eq!((fs::read(&path).expect("the file"), names()), (b"two".to_vec(), vec!["file".into()]));
        let failed = replace(&path, |file| {
            file.write_all(b"three")?;
            Err::<(), _>(io::Error::other("enough"))
        });
        assert_eq!(failed.expect_err("its error").to_string(), "enough");
        assert_eq!((fs::read(&path).expect("the file"), names()), (b"two".to_vec(), vec!["file".into()]));
        // Another process begins to write the same file.
        let failed = replace(&path, |_| {
            fs::remove_file(directory.0.join("file.unfinished"))?;
            fs::write(directory.0.join("file.unfinished"), b"other's")
        });
        assert_eq!(failed.expect_err("an error").to_string(), "another process is writing it too");
        assert_eq!((fs::read(&path).expect("the file"), names().len()), (b"two".to_vec(), 2));
        assert!(replace(&directory.0.join("none/file"), |_| Ok(())).is_err());
        assert!(replace(Path::new("/"), |_| Ok(())).is_err());
        fs::remove_dir_all(&directory.0).expect("removed");
    }
}
