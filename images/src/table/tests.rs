//! Tables as bytes by hand, whole and hostile.

use super::*;

const SECTOR: usize = 512;

fn no() -> bool {
    false
}

/// A disk with an MBR of these entries: type, first sector, sectors.
fn mbr(sectors: usize, entries: &[(u8, u32, u32)]) -> Vec<u8> {
    let mut disk = vec![0; sectors * SECTOR];
    write(&mut disk, 0, entries);
    disk
}

fn write(disk: &mut [u8], sector: usize, entries: &[(u8, u32, u32)]) {
    let sector = &mut disk[sector * SECTOR..][..SECTOR];
    for (index, (kind, first, count)) in entries.iter().enumerate() {
        let entry = &mut sector[446 + index * 16..][..16];
        entry[4] = *kind;
        entry[8..12].copy_from_slice(&first.to_le_bytes());
        entry[12..].copy_from_slice(&count.to_le_bytes());
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
}

fn slots(table: &Table) -> Vec<(u32, u64, u64)> {
    let sector = SECTOR as u64;
    table.slots.iter().map(|slot| (slot.number, slot.first / sector, slot.bytes / sector)).collect()
}

#[test]
fn logical_partitions_are_counted_from_five() {
    let mut disk = mbr(100, &[(0x83, 1, 9), (5, 10, 60)]);
    write(&mut disk, 10, &[(0x83, 1, 19), (5, 20, 30)]);
    write(&mut disk, 30, &[(0x0c, 2, 18)]);
    let table = read(&disk, &no).unwrap();
    assert_eq!(slots(&table), [(1, 1, 9), (5, 11, 19), (6, 32, 18)]);
    assert_eq!((table.scheme, table.notes), (Scheme::Mbr, Vec::new()));
}

#[test]
fn a_chain_in_circles_ends_and_is_told() {
    let mut disk = mbr(100, &[(5, 10, 60)]);
    write(&mut disk, 10, &[(0x83, 1, 5), (5, 20, 30)]);
    write(&mut disk, 30, &[(0x83, 1, 5), (5, 0, 30)]);
    let table = read(&disk, &no).unwrap();
    assert_eq!(slots(&table), [(5, 11, 5), (6, 31, 5)]);
    assert!(table.notes[0].contains("in circles"), "{:?}", table.notes);
}

#[test]
fn what_leads_out_or_overlaps_is_told() {
    let table = read(&mbr(100, &[(0x83, 1, 50), (0x83, 40, 20), (7, 90, 11)]), &no).unwrap();
    let faults: Vec<bool> = table.slots.iter().map(|slot| slot.fault.is_some()).collect();
    assert_eq!(faults, [false, false, true]);
    assert_eq!(table.notes, ["partitions 1 and 2 overlap"]);
}

#[test]
fn a_file_system_on_the_bare_disk_is_one_partition() {
    let disk = vec![0; 10 * SECTOR];
    assert_eq!(slots(&read(&disk, &no).unwrap()), [(1, 0, 10)]);
    assert_eq!(read(&disk, &no).unwrap().scheme, Scheme::Bare);
    // Nothing of a table lies within the disk, and a file system does.
    let disk = mbr(10, &[(0x83, 5000, 50)]);
    assert_eq!(read(&disk, &|| true).unwrap().scheme, Scheme::Bare);
    assert_eq!(read(&disk, &no).unwrap().scheme, Scheme::Mbr);
    assert_eq!(slots(&read(&Vec::new(), &no).unwrap()), [(1, 0, 0)]);
}

/// A disk of 200 sectors with a GPT and its copy.
fn gpt(partitions: &[(u64, u64)]) -> Vec<u8> {
    let mut disk = mbr(200, &[(0xee, 1, 199)]);
    let mut entries = vec![0; 128 * 128];
    for (index, (first, last)) in partitions.iter().enumerate() {
        let entry = &mut entries[index * 128..][..128];
        entry[..16].fill(7);
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        entry[56..58].copy_from_slice(b"x\0");
    }
    for (at, other, array) in [(1_u64, 199_u64, 2_u64), (199, 1, 167)] {
        disk[array as usize * SECTOR..][..entries.len()].copy_from_slice(&entries);
        let mut header = vec![0; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[12..16].copy_from_slice(&92_u32.to_le_bytes());
        header[24..32].copy_from_slice(&at.to_le_bytes());
        header[32..40].copy_from_slice(&other.to_le_bytes());
        header[72..80].copy_from_slice(&array.to_le_bytes());
        header[80..84].copy_from_slice(&128_u32.to_le_bytes());
        header[84..88].copy_from_slice(&128_u32.to_le_bytes());
        header[88..92].copy_from_slice(&crc32fast::hash(&entries).to_le_bytes());
        let sum = crc32fast::hash(&header).to_le_bytes();
        header[16..20].copy_from_slice(&sum);
        disk[at as usize * SECTOR..][..92].copy_from_slice(&header);
    }
    disk
}

#[test]
fn a_damaged_gpt_is_read_from_its_copy_and_never_without_a_checksum() {
    let whole = gpt(&[(40, 59), (60, 99)]);
    let wanted = [(1, 40, 20), (2, 60, 40)];
    let table = read(&whole, &no).unwrap();
    assert_eq!((slots(&table).as_slice(), table.notes.len()), (wanted.as_slice(), 0));
    assert_eq!(table.slots[0].name.as_deref(), Some("x"));
    for byte in [SECTOR + 3, SECTOR + 40, 2 * SECTOR + 33] {
        let mut hurt = whole.clone();
        hurt[byte] ^= 1;
        let table = read(&hurt, &no).unwrap();
        assert_eq!(slots(&table), wanted, "byte {byte}");
        assert!(table.notes[0].contains("its copy"), "{:?}", table.notes);
        hurt[199 * SECTOR + 40] ^= 1;
        let table = read(&hurt, &no).unwrap();
        assert!(table.slots.is_empty(), "byte {byte}: {:?}", table.slots);
    }
}
