//! The drives of a library: which units there are, and which element each is for the arm.
//! Promises that a drive is matched by its identifier where the library knows it. Refuses to
//! tell two drives apart by an identifier they share.

use crate::tape::scsi::library::{Connect, reach};
use crate::tape::scsi::unit::{Identity, ScsiError};
use crate::tape::scsi::{Element, IscsiAddress, UnitAddress};

/// What INQUIRY calls a tape drive.
pub(super) const TAPE_DRIVE: u8 = 1;
/// What INQUIRY calls a media changer.
pub(super) const CHANGER: u8 = 8;

/// A drive and the element it is for the arm.
#[derive(Clone, Debug)]
pub(super) struct Bay {
    pub(super) element: u16,
    pub(super) unit: UnitAddress,
}

/// The units of a target: its changer and its drives.
pub(super) fn discover(
    target: &IscsiAddress,
    connect: &Connect,
) -> Result<(UnitAddress, Vec<UnitAddress>), ScsiError> {
    let at = |lun| UnitAddress::Iscsi(IscsiAddress { lun: Some(lun), ..target.clone() });
    let luns = reach(connect, &at(0))?.report_luns()?;
    let (mut changer, mut drives) = (None, Vec::new());
    for lun in luns {
        match reach(connect, &at(lun))?.identity()?.kind {
            TAPE_DRIVE => drives.push(at(lun)),
            CHANGER => changer = changer.or_else(|| Some(at(lun))),
            _ => {}
        }
    }
    let lacking =
        || ScsiError::Unusable { unit: target.to_string(), reason: "it has no changer".to_owned() };
    Ok((changer.ok_or_else(lacking)?, drives))
}

/// Which drive is which element: by the identifier the library has of it, else by order.
pub(super) fn match_bays(places: &[Element], mut named: Vec<(UnitAddress, Identity)>) -> Vec<Bay> {
    let known = |element: &Element, identity: &Identity| {
        let names = identity.names.iter().filter(|name| name.len() >= 4);
        names
            .into_iter()
            .any(|name| element.device.windows(name.len()).any(|window| window == name.as_slice()))
    };
    let mut bays: Vec<Bay> = Vec::new();
    for place in places {
        let mut fits = named.iter().enumerate().filter(|(_, (_, id))| known(place, id));
        // Drives that share an identifier are not told apart by it.
        if let (Some((index, _)), None) = (fits.next(), fits.next()) {
            bays.push(Bay { element: place.address, unit: named.remove(index).0 });
        }
    }
    let rest = places.iter().filter(|place| bays.iter().all(|bay| bay.element != place.address));
    let rest: Vec<u16> = rest.map(|place| place.address).collect();
    let by_order = rest.into_iter().zip(named);
    bays.extend(by_order.map(|(element, (unit, _))| Bay { element, unit }));
    bays.sort_by_key(|bay| bay.element);
    bays
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::scsi::ElementKind;

    #[test]
    fn drives_are_found_by_their_names_and_else_by_order() {
        let place = |address, device: &str| Element {
            kind: ElementKind::DataTransfer,
            address,
            full: false,
            barcode: None,
            source: None,
            trouble: None,
            device: device.as_bytes().to_vec(),
        };
        let unit = |name: &str| UnitAddress::Sg(format!("/dev/{name}").into());
        let drive = |name: &str, serial: &str| {
            let names = vec![serial.as_bytes().to_vec()];
            let (vendor, product) = (String::new(), String::new());
            (unit(name), Identity { kind: TAPE_DRIVE, vendor, product, names })
        };
        let named = || vec![drive("a", "SN-AAAA"), drive("b", "SN-BBBB"), drive("c", "SN-CCCC")];
        let places = [place(256, "IBM SN-BBBB "), place(257, "IBM SN-AAAA"), place(258, "")];
        let bays = match_bays(&places, named());
        let found: Vec<_> = bays.into_iter().map(|bay| (bay.element, bay.unit)).collect();
        assert_eq!(found, [(256, unit("b")), (257, unit("a")), (258, unit("c"))]);
        let blind = match_bays(&[place(1, ""), place(2, "")], named());
        assert_eq!(blind.len(), 2);
        assert_eq!(blind[1].unit, unit("b"));
    }
}
