//! Places and words of a machine that is booted from its point.

use super::*;

#[test]
fn a_place_is_new_and_goes_but_for_what_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (at, keep) = (dir.path().join("m"), dir.path().join("kept"));
    let place = Place::make(&at, Some(&keep)).unwrap();
    assert!(place.image("vda").starts_with(&keep) && place.config().starts_with(&keep));
    let taken = Place::make(&keep, None).unwrap_err().to_string();
    assert!(taken.contains("is not empty"), "{taken}");
    place.clear(Kept::Whole).unwrap();
    assert!(!at.exists() && keep.exists());
    let place = Place::make(&at, None).unwrap();
    assert!(place.image("vda").starts_with(&at));
    place.clear(Kept::Not).unwrap();
    assert!(!at.exists());
    for (thrown, kept) in [("m", "m"), ("m", "x/../m/kept"), ("m/d", "m")] {
        let refused = Place::make(&dir.path().join(thrown), Some(&dir.path().join(kept)));
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("lie in one another") && !at.exists(), "{refused}");
    }
    std::fs::create_dir(&at).unwrap();
    std::fs::set_permissions(&at, Permissions::from_mode(0o755)).unwrap();
    Place::make(&at, None).unwrap();
    assert_eq!(at.metadata().unwrap().permissions().mode() & 0o777, PRIVATE);
    let long = dir.path().join("x".repeat(100));
    assert!(Place::make(&long, None).unwrap_err().to_string().contains("too long"));
}

#[test]
fn firmware_is_taken_from_the_point_and_missed_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::make(&dir.path().join("m"), None).unwrap();
    std::fs::create_dir(place.config()).unwrap();
    std::fs::write(place.config().join("vars.fd"), b"v").unwrap();
    let code = dir.path().join("code.fd");
    std::fs::write(&code, b"c").unwrap();
    let command = |code: &Path| {
        let drive = |more: &str, file: &str| format!("if=pflash,format=raw{more},file={file}");
        let code = drive(",readonly=on", &code.display().to_string());
        ["q", "-drive", &code, "-drive", &drive("", "/gone/vars.fd"), "-tpmdev", "emulator,id=t"]
            .map(str::to_owned)
    };
    let disk = BootDisk { name: "vda".to_owned(), bus: Bus::Scsi, image: "/a,b.qcow2".into() };
    let outfit = outfit(&place, &Found::of(&command(&code)), &[disk]).unwrap();
    let said = outfit.words.join(" ");
    let vars = place.config().join("vars.fd");
    assert!(said.contains(&format!("readonly=on,file={}", code.display())), "{said}");
    assert!(said.contains(&format!("format=raw,file={}", vars.display())), "{said}");
    assert!(said.contains("scsi-hd,drive=kept-vda") && said.contains("file=/a,,b.qcow2"), "{said}");
    assert!(outfit._tpm.is_none() && outfit.lacking[0].contains("TPM"), "{:?}", outfit.lacking);
    let gone = super::outfit(&place, &Found::of(&command(Path::new("/gone/code.fd"))), &[]);
    let gone = gone.err().unwrap().to_string();
    assert!(gone.contains("/gone/code.fd") && gone.contains("ovmf"), "{gone}");
}

#[test]
fn the_state_of_a_tpm_is_found_below() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("swtpm/uuid/tpm2");
    std::fs::create_dir_all(&deep).unwrap();
    assert_eq!(tpm_state(dir.path()), None);
    std::fs::write(deep.join("tpm2-00.permall"), b"s").unwrap();
    assert_eq!(tpm_state(dir.path()), Some((deep, TpmVersion::Two)));
}
