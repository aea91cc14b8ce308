//! A wrong passphrase, a damaged record, a record of something else and a mistyped recovery
//! key are four different answers.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use strongroom_certs::{Cost, RecoveryKey, Secret, WrapContext, WrapError, Wrapped};

const CONTEXT: WrapContext<'static> = WrapContext { purpose: "root key", owner: "acme" };

fn by_passphrase() -> Wrapped {
    let secret = Secret::from("the secret");
    Wrapped::by_passphrase(&secret, &"horse".into(), CONTEXT, Cost::TESTING).unwrap()
}

#[test]
fn opens_for_its_passphrase_only() {
    let wrapped = by_passphrase();
    let opened = wrapped.open_with_passphrase(&"horse".into(), CONTEXT).unwrap();
    assert_eq!(opened.expose(), b"the secret");
    let wrong = wrapped.open_with_passphrase(&"house".into(), CONTEXT).unwrap_err();
    assert_eq!(wrong, WrapError::WrongPassphrase);
    let empty = wrapped.open_with_passphrase(&"".into(), CONTEXT).unwrap_err();
    assert_eq!(empty, WrapError::EmptyPassphrase);
}

#[test]
fn opens_for_its_recovery_key_only() {
    let (key, other) = (RecoveryKey::from_bytes([1; 32]), RecoveryKey::from_bytes([2; 32]));
    let wrapped = Wrapped::by_recovery(&"the secret".into(), &key, CONTEXT).unwrap();
    assert_eq!(wrapped.open_with_recovery(&key, CONTEXT).unwrap().expose(), b"the secret");
    let wrong = wrapped.open_with_recovery(&other, CONTEXT).unwrap_err();
    assert_eq!(wrong, WrapError::WrongRecoveryKey);
    let mixed = wrapped.open_with_passphrase(&"horse".into(), CONTEXT).unwrap_err();
    assert_eq!(mixed, WrapError::OtherRecipient { needed: "recovery key" });
}

#[test]
fn every_flipped_bit_is_damage_and_never_a_wrong_passphrase() {
    let bytes = postcard::to_stdvec(&by_passphrase()).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // A flip in a length or a tag may leave no record at all: that is seen as damage too.
        let Ok(wrapped) = postcard::from_bytes::<Wrapped>(&flipped) else { continue };
        let error = wrapped.open_with_passphrase(&"horse".into(), CONTEXT).unwrap_err();
        assert!(matches!(error, WrapError::Damaged { .. }), "bit {bit}: {error:?}");
    }
}

#[test]
fn json_and_postcard_carry_the_same_record() {
    let wrapped = by_passphrase();
    let json = serde_json::to_string(&wrapped).unwrap();
    assert!(!json.contains("the secret") && json.contains("acme"));
    assert_eq!(serde_json::from_str::<Wrapped>(&json).unwrap(), wrapped);
    let bytes = postcard::to_stdvec(&wrapped).unwrap();
    assert_eq!(postcard::from_bytes::<Wrapped>(&bytes).unwrap(), wrapped);
}

#[test]
fn a_record_of_something_else_is_named() {
    let other = WrapContext { purpose: "root key", owner: "umbrella" };
    let error = by_passphrase().open_with_passphrase(&"horse".into(), other).unwrap_err();
    assert!(matches!(error, WrapError::OtherContext { .. }));
    assert!(error.to_string().contains("acme"), "{error}");
}

#[test]
fn oversized_secrets_and_absurd_costs_are_refused() {
    let large = Secret::new(vec![0; 4097]);
    let result = Wrapped::by_passphrase(&large, &"horse".into(), CONTEXT, Cost::TESTING);
    assert_eq!(result.unwrap_err(), WrapError::TooLarge { bytes: 4097 });
    let cost = Cost { memory_kib: u32::MAX, passes: 1, lanes: 1 };
    let result = Wrapped::by_passphrase(&"s".into(), &"horse".into(), CONTEXT, cost);
    assert_eq!(result.unwrap_err(), WrapError::Cost { cost });
}

#[test]
fn a_typo_in_the_recovery_key_is_named_before_anything_is_tried() {
    let text = RecoveryKey::from_bytes([7; 32]).to_text().to_string();
    let wrong = if text.ends_with('0') { "2" } else { "0" };
    let typo = format!("{}{wrong}", &text[..text.len() - 1]);
    let error = typo.parse::<RecoveryKey>().unwrap_err();
    assert_eq!(error.to_string(), "group 14 of the recovery key has a typo");
}
