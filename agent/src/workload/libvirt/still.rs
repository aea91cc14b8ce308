//! The disks of a machine that is shut off, read from its images by `qemu-nbd`. Promises that
//! the machine can be started all the while: its images are not locked; and that a point is made
//! only if they did not change. Refuses block devices, which do not tell.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::DiskGround;
use crate::workload::vm::machine::Disk;

const PROGRAM: &str = "qemu-nbd";
/// How long it may take to open an image.
const OPENING: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

/// Images that are being read.
#[derive(Debug)]
pub(super) struct Still {
    servers: Vec<(Child, Image)>,
}

/// An image, and how it was when it was opened.
#[derive(Debug)]
struct Image {
    file: PathBuf,
    seen: (u64, u64, i64, i64),
}

impl Image {
    fn of(file: &Path) -> io::Result<Self> {
        Ok(Self { file: file.to_owned(), seen: seen(file)? })
    }
}

/// Which file it is, and when it was written to.
fn seen(file: &Path) -> io::Result<(u64, u64, i64, i64)> {
    let about = std::fs::metadata(file)?;
    if !about.is_file() {
        let text = format!("{} is no file, and does not tell when it is written", file.display());
        return Err(io::Error::other(text));
    }
    Ok((about.dev(), about.ino(), about.mtime(), about.mtime_nsec()))
}

/// Where the disk of this name is served, beside the socket of the run.
pub(super) fn socket(run: &Path, disk: &str) -> PathBuf {
    run.with_extension(disk)
}

impl Still {
    /// Serves every disk by a socket of its own beside `run`.
    pub(super) fn begin(run: &Path, disks: &[DiskGround]) -> io::Result<Self> {
        let mut still = Self { servers: Vec::new() };
        for DiskGround { disk, .. } in disks {
            let image = Image::of(Path::new(&disk.file))?;
            let socket = socket(run, &disk.name);
            let server = serve(disk, &socket)?;
            still.servers.push((server, image));
            still.await_last(&socket)?;
        }
        Ok(still)
    }

    fn await_last(&mut self, socket: &Path) -> io::Result<()> {
        let until = Instant::now() + OPENING;
        let Some((server, image)) = self.servers.last_mut() else { return Ok(()) };
        let failed = |why: &str| Err(io::Error::other(format!("{} {why}", image.file.display())));
        while !socket.exists() {
            if server.try_wait()?.is_some() {
                let mut said = String::new();
                if let Some(error) = server.stderr.as_mut() {
                    io::Read::read_to_string(error, &mut said)?;
                }
                return failed(&format!("cannot be opened ({})", said.trim()));
            }
            if Instant::now() > until {
                return failed("was not opened in time");
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Whether nobody wrote to any image since.
    pub(super) fn holds(&self) -> bool {
        self.servers.iter().all(|(_, image)| seen(&image.file).ok() == Some(image.seen))
    }
}

/// Reads only, and takes no lock that the machine's start would meet.
fn serve(disk: &Disk, socket: &Path) -> io::Result<Child> {
    let comma = |text: &str| text.replace(',', ",,");
    let image = format!(
        "driver={},force-share=on,file.driver=file,file.filename={}",
        comma(&disk.format),
        comma(&disk.file)
    );
    let mut server = Command::new(PROGRAM);
    server.args(["--read-only", "--persistent", "--shared=2", "--export-name", &disk.name]);
    server.arg("--socket").arg(socket).args(["--image-opts", &image]);
    server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    server.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            io::Error::other("there is no `qemu-nbd` on this host: install qemu-utils")
        }
        _ => error,
    })
}

impl Drop for Still {
    fn drop(&mut self) {
        for (server, _) in &mut self.servers {
            // One that ended by itself is gone already.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}
