//! The steps every certificate shares: its name, its time, its serial number, its signature.
//! Decides nothing about who may be issued what; `ca` does.

use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, SanType, SerialNumber};
use rustls_pki_types::CertificateDer;
use strongroom_protocol::Timestamp;
use x509_parser::time::ASN1Time;

use crate::ca::CaError;
use crate::keys::{KeyError, KeyPair, PublicKey};
use crate::peer::{BACKDATED_SECONDS, Serial};
use crate::x509::{Facts, Subject};

pub(crate) fn key_for(subject: &Subject) -> Result<KeyPair, CaError> {
    KeyPair::generate().map_err(key_error(subject))
}

/// Everything but the powers of the certificate; dated back for clocks that are behind.
pub(crate) fn params(
    subject: &Subject,
    now: Timestamp,
    end: Timestamp,
) -> Result<CertificateParams, CaError> {
    let uri = subject.to_uri();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, uri.clone());
    let uri = uri.try_into().map_err(encode(subject))?;
    let mut params = CertificateParams::default();
    params.not_before = moment(now.plus_seconds(-BACKDATED_SECONDS))?.to_datetime();
    params.not_after = moment(end)?.to_datetime();
    params.serial_number = Some(SerialNumber::from_slice(Serial::generate()?.as_bytes()));
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.distinguished_name = name;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

pub(crate) fn sign(
    params: &CertificateParams,
    key: &PublicKey,
    issuer: &CertificateDer<'_>,
    issuer_key: &KeyPair,
    subject: &Subject,
) -> Result<CertificateDer<'static>, CaError> {
    let issuer = Issuer::from_ca_cert_der(issuer, issuer_key).map_err(encode(subject))?;
    let certificate = params.signed_by(key, &issuer).map_err(encode(subject))?;
    Ok(certificate.into())
}

pub(crate) fn check_valid(issuer: &Facts, now: Timestamp) -> Result<(), CaError> {
    if issuer.not_before <= now && now < issuer.not_after {
        return Ok(());
    }
    Err(CaError::Expired {
        issuer: issuer.subject.to_uri(),
        not_before: issuer.not_before,
        not_after: issuer.not_after,
    })
}

pub(crate) fn encode(subject: &Subject) -> impl Fn(rcgen::Error) -> CaError {
    let subject = subject.to_uri();
    move |source| CaError::Encode { subject: subject.clone(), source }
}

pub(crate) fn key_error(subject: &Subject) -> impl Fn(KeyError) -> CaError {
    let holder = subject.to_uri();
    move |source| CaError::Key { holder: holder.clone(), source }
}

fn moment(moment: Timestamp) -> Result<ASN1Time, CaError> {
    ASN1Time::from_timestamp(moment.unix_seconds()).map_err(|_| CaError::Time { moment })
}
