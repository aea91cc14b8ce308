//! The generic SCSI devices of Linux: `/dev/sg*`, one command at a time by `SG_IO`. Promises
//! that the bytes moved are those the kernel counted. Refuses a command that the kernel could
//! not bring to the device.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::Path;
use std::ptr::null_mut;
use std::time::Duration;

use rustix::ioctl::{Opcode, Updater, ioctl};

use crate::tape::scsi::{Answer, Data, Transport};

/// `SG_IO`.
const SG_IO: Opcode = 0x2285;
const NO_DATA: i32 = -1;
const TO_DEVICE: i32 = -2;
const FROM_DEVICE: i32 = -3;
const SENSE_BYTES: usize = 64;
/// `DRIVER_SENSE`: nothing but "there is sense", beside the status.
const DRIVER_SENSE: u16 = 0x08;

/// `struct sg_io_hdr`.
#[repr(C)]
struct Header {
    interface_id: i32,
    direction: i32,
    command_bytes: u8,
    sense_bytes_max: u8,
    scatter: u16,
    data_bytes: u32,
    data: *mut u8,
    command: *const u8,
    sense: *mut u8,
    timeout_ms: u32,
    flags: u32,
    pack_id: i32,
    user: *mut u8,
    status: u8,
    masked_status: u8,
    message_status: u8,
    sense_bytes: u8,
    host_status: u16,
    driver_status: u16,
    residual: i32,
    duration_ms: u32,
    info: u32,
}

/// One device file.
pub(super) struct Sg {
    file: File,
    name: String,
}

impl Sg {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        Ok(Self { file, name: path.display().to_string() })
    }
}

impl Transport for Sg {
    fn execute(&mut self, cdb: &[u8], data: Data<'_>, patience: Duration) -> io::Result<Answer> {
        let (direction, pointer, bytes) = match data {
            Data::Nothing => (NO_DATA, null_mut(), 0),
            Data::In(buffer) => (FROM_DEVICE, buffer.as_mut_ptr(), buffer.len()),
            Data::Out(bytes) => (TO_DEVICE, bytes.as_ptr().cast_mut(), bytes.len()),
        };
        let mut sense = [0; SENSE_BYTES];
        let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let mut header = Header {
            interface_id: i32::from(b'S'),
            direction,
            command_bytes: u8::try_from(cdb.len()).map_err(too_long)?,
            sense_bytes_max: SENSE_BYTES as u8,
            scatter: 0,
            data_bytes: u32::try_from(bytes).map_err(too_long)?,
            data: pointer,
            command: cdb.as_ptr(),
            sense: sense.as_mut_ptr(),
            timeout_ms: u32::try_from(patience.as_millis()).unwrap_or(u32::MAX),
            flags: 0,
            pack_id: 0,
            user: null_mut(),
            status: 0,
            masked_status: 0,
            message_status: 0,
            sense_bytes: 0,
            host_status: 0,
            driver_status: 0,
            residual: 0,
            duration_ms: 0,
            info: 0,
        };
        // SAFETY: SG_IO takes a `struct sg_io_hdr`, which `Header` is. Command, sense and data
        // outlive the call and have the lengths given; `TO_DEVICE` only reads the data, so the
        // pointer made from a shared slice is never written through.
        unsafe { ioctl(&self.file, Updater::<SG_IO, Header>::new(&mut header)) }?;
        answer(&header, &sense, bytes)
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// What the kernel filled in, as an answer.
fn answer(header: &Header, sense: &[u8], bytes: usize) -> io::Result<Answer> {
    let driver = header.driver_status & 0x0f;
    if header.host_status != 0 || !(driver == 0 || driver == DRIVER_SENSE) {
        let (host, driver) = (header.host_status, header.driver_status);
        let text = format!("host status {host:#06x}, driver status {driver:#06x}");
        return Err(io::Error::other(text));
    }
    let residual = usize::try_from(header.residual).unwrap_or(0).min(bytes);
    let sense = sense.get(..usize::from(header.sense_bytes)).unwrap_or(sense).to_vec();
    Ok(Answer { status: header.status, sense, transferred: bytes - residual })
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    fn header() -> Header {
        Header {
            interface_id: 0,
            direction: 0,
            command_bytes: 0,
            sense_bytes_max: 0,
            scatter: 0,
            data_bytes: 0,
            data: null_mut(),
            command: null_mut(),
            sense: null_mut(),
            timeout_ms: 0,
            flags: 0,
            pack_id: 0,
            user: null_mut(),
            status: 2,
            masked_status: 1,
            message_status: 0,
            sense_bytes: 18,
            host_status: 0,
            driver_status: DRIVER_SENSE,
            residual: 40,
            duration_ms: 0,
            info: 1,
        }
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn the_header_lies_as_the_kernel_reads_it() {
        assert_eq!(size_of::<Header>(), 88);
        let offsets = [
            offset_of!(Header, data_bytes),
            offset_of!(Header, data),
            offset_of!(Header, sense),
            offset_of!(Header, timeout_ms),
            offset_of!(Header, user),
            offset_of!(Header, status),
            offset_of!(Header, host_status),
            offset_of!(Header, residual),
        ];
        assert_eq!(offsets, [12, 16, 32, 40, 56, 64, 68, 72]);
    }

    #[test]
    fn a_check_condition_is_an_answer_and_a_lost_command_is_none() {
        let mut header = header();
        let found = answer(&header, &[7; SENSE_BYTES], 100).unwrap();
        assert_eq!((found.status, found.transferred, found.sense.len()), (2, 60, 18));
        header.host_status = 3;
        let lost = answer(&header, &[7; SENSE_BYTES], 100).unwrap_err();
        assert!(lost.to_string().contains("0x0003"), "{lost}");
    }

    #[test]
    fn a_file_that_is_no_device_is_refused_by_the_kernel() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut sg = Sg::open(file.path()).unwrap();
        let error = sg.execute(&[0; 6], Data::Nothing, Duration::from_secs(1)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::NOTTY.raw_os_error()));
    }
}
