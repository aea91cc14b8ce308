//! Carries out one order on a device, and says how it is answered. Blocking.

use bytes::Bytes;

use super::device::{Device, DeviceError, Piece};
use super::order::{Durable, Order, Refused};
use super::reply::{self, Style};
use super::tally::Tally;

/// An order with what came with it.
pub(super) struct Errand {
    pub(super) style: Style,
    pub(super) cookie: u64,
    pub(super) order: Result<Order, Refused>,
    /// The data of a write.
    pub(super) payload: Vec<u8>,
}

impl Errand {
    /// Carries it out; the answer.
    pub(super) fn carry_out(self, device: &Device, tally: &Tally) -> Vec<Bytes> {
        let Self { style, cookie, order, payload } = self;
        let order = match order {
            Ok(order) => order,
            Err(Refused { errno, why }) => return reply::error(style, cookie, errno, why),
        };
        match answer(style, cookie, order, &payload, device, tally) {
            Ok(answer) => answer,
            Err(error) => {
                let why = error.told();
                tracing::warn!(export = device.offer().name, why, "a request failed");
                tally.failed(&why);
                reply::error(style, cookie, error.errno(), &why)
            }
        }
    }
}

fn answer(
    style: Style,
    cookie: u64,
    order: Order,
    payload: &[u8],
    device: &Device,
    tally: &Tally,
) -> Result<Vec<Bytes>, DeviceError> {
    match order {
        Order::Read { offset, length, one_piece } => {
            let pieces = device.read(offset..offset + u64::from(length))?;
            tally.read(pieces.iter().map(Piece::bytes).sum());
            return Ok(reply::data(style, cookie, offset, pieces, one_piece));
        }
        Order::Status { offset, length, one } => {
            let mut stretches = device.status(offset..offset + u64::from(length))?;
            if one {
                stretches.truncate(1);
            }
            return Ok(reply::status(cookie, &stretches));
        }
        Order::Write { offset, durable, .. } => {
            device.write(offset, payload)?;
            settle(device, durable)?;
        }
        Order::Zero { offset, length, durable } => {
            device.zero(offset..offset + u64::from(length))?;
            settle(device, durable)?;
        }
        Order::Cache { offset, length } => device.cache(offset..offset + u64::from(length))?,
        Order::Flush => device.flush()?,
        Order::Disconnect => {}
    }
    Ok(reply::done(style, cookie))
}

fn settle(device: &Device, durable: Durable) -> Result<(), DeviceError> {
    match durable {
        Durable::AtOnce => device.flush(),
        Durable::AtFlush => Ok(()),
    }
}
