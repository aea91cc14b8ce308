//! Cartridges that must be fetched are named before anything is read, and waited for.

use super::*;

#[tokio::test]
async fn what_must_be_fetched_is_named_before_anything_is_read_and_waited_for() {
    let fixture = fixture();
    let shelf = Shelf::open(&fixture.media).unwrap();
    let first = shelf.media()[0].barcode.to_string();
    drop(shelf);
    let away = fixture.root.path().join(format!("{first}.tape"));
    let file = fixture.media.join(format!("{first}.tape"));
    std::fs::rename(&file, &away).unwrap();
    // The proxy's book lies beside the library.
    let said = format!(
        "{{\"at\":0,\"by\":\"ann\",\"barcode\":\"{first}\",\"what\":\"vaulted\",\
         \"place\":\"the safe\",\"contents\":null}}\n"
    );
    std::fs::write(fixture.root.path().join(strongroom_proxy::CARTRIDGES_FILE), said).unwrap();
    let staging = fixture.root.path().join("staging");
    let run = |wait: u64| {
        let wait = Some(Duration::from_secs(wait));
        let (order, opener) = (fixture.order(b"", &[]), Opener::Recovery(RECOVERY));
        let staging = (staging.clone(), false, wait);
        from_media(&fixture.session, order, fixture.media.clone(), opener, staging)
    };
    let named = run(0).await.unwrap_err();
    assert_eq!(named.code(), AWAY);
    assert!(
        named.to_string().contains(&format!("fetch cartridges {first} from the safe")),
        "{named}"
    );
    assert!(!fixture.root.path().join("back").exists(), "nothing was restored");
    assert_eq!(fixture.packs_staged(), 0, "no data was read");
    // Somebody puts it into a slot while the restore waits, and it goes on by itself.
    let bringing = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        std::fs::rename(&away, &file).unwrap();
    };
    let (ended, ()) = tokio::join!(run(120), bringing);
    assert_eq!(ended.unwrap(), Ending::Done);
    let mut differences = Vec::new();
    let back = fixture.root.path().join("back");
    compare(&fixture.tree, &back, &mut |found| differences.push(found)).unwrap();
    assert_eq!(differences, vec![]);
}
