//! Who may sign: the organisation's root, kept offline and wrapped, and one authority per site.
//! The root signs sites only; an authority signs nodes of its own site only. Refuses to issue
//! for another organisation or site, for longer than its own life, and to replace a root that
//! is there already.

use std::path::Path;

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use strongroom_protocol::{Identity, OrgName, Role, SiteName, Timestamp};

use crate::files::{
    FileError, create_private_directory, read_certificates, read_json, read_private,
    refuse_existing, write_certificates, write_json, write_private,
};
use crate::keys::{KeyError, KeyPair, PublicKey};
use crate::peer::{PeerError, Serial};
use crate::recovery::RecoveryKey;
use crate::request::{CertRequest, RequestError};
use crate::secret::{NoRandomness, Secret};
use crate::signing::{check_valid, encode, key_error, key_for, params, sign};
use crate::trust::{RootFingerprint, TrustError, TrustRoot};
use crate::wrap::{Cost, WrapContext, WrapError, Wrapped};
use crate::x509::{Facts, Subject};

/// The root's certificate, in every directory that has one.
pub const ROOT_CERTIFICATE_FILE: &str = "root.crt";
/// The root's private key, wrapped for passphrase and recovery key.
pub const ROOT_KEY_FILE: &str = "root.key.wrapped";
/// The site authority's certificate.
pub const SITE_CERTIFICATE_FILE: &str = "site.crt";
/// The site authority's private key.
pub const SITE_KEY_FILE: &str = "site.key";

/// Twenty years: an archive outlives its administrators.
pub const ROOT_LIFETIME_SECONDS: i64 = 20 * 365 * DAY_SECONDS;
/// Five years between two visits to the safe.
pub const SITE_LIFETIME_SECONDS: i64 = 5 * 365 * DAY_SECONDS;
/// A node's certificate, unless the authority is told otherwise.
pub const NODE_LIFETIME_SECONDS: i64 = DAY_SECONDS;
/// The most an authority signs for: a laptop that was away for a season must enrol again.
pub const NODE_LIFETIME_SECONDS_MAX: i64 = 90 * DAY_SECONDS;
const DAY_SECONDS: i64 = 24 * 60 * 60;

/// Why nothing was issued, saved or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// The request asks for an identity other than the one granted.
    #[error("the request asks for {asked}, but {granted} was granted")]
    Asked { asked: Box<Identity>, granted: Box<Identity> },
    /// The certificate could not be encoded.
    #[error("cannot make the certificate of {subject}")]
    Encode { subject: String, source: rcgen::Error },
    /// The issuer's own certificate is over, or not yet valid.
    #[error("the authority {issuer} is valid from {not_before} to {not_after}, not now")]
    Expired { issuer: String, not_before: Timestamp, not_after: Timestamp },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key could not be made or read.
    #[error("the private key of {holder} is not usable")]
    Key { holder: String, source: KeyError },
    /// The key is not that of the certificate beside it.
    #[error("the private key does not belong to the certificate of {holder}")]
    KeyMismatch { holder: String },
    /// No certificate lives that long, or no time at all.
    #[error("a lifetime of {seconds} seconds is not between 1 and {NODE_LIFETIME_SECONDS_MAX}")]
    Lifetime { seconds: i64 },
    /// The directory holds something else than its name says.
    #[error("the certificate of the authority is not usable")]
    Malformed(#[source] PeerError),
    /// No randomness for keys and serial numbers.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// A certificate of ours, but not that of an authority.
    #[error("{subject} is not the authority of a site of {org}")]
    NotAuthority { subject: String, org: OrgName },
    /// The request is not valid.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The moment cannot be written in a certificate.
    #[error("{moment} cannot be written in a certificate")]
    Time { moment: Timestamp },
    /// The root certificate is not usable.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The root key could not be wrapped or opened.
    #[error("the root key stays closed")]
    Wrap(#[from] WrapError),
    /// A site authority issues for its own site only.
    #[error("the authority of site {site} of {org} does not issue for {identity}")]
    WrongSite { org: OrgName, site: SiteName, identity: Box<Identity> },
}

/// A node's certificate and that of the authority that issued it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub leaf: CertificateDer<'static>,
    pub intermediate: CertificateDer<'static>,
}

#[derive(Serialize, Deserialize)]
struct WrappedRootKey {
    org: OrgName,
    by_passphrase: Wrapped,
    by_recovery: Wrapped,
}

/// The organisation's root with its private key opened: keep it no longer than needed.
pub struct Root {
    trust: TrustRoot,
    key: KeyPair,
    wrapped: WrappedRootKey,
}

impl Root {
    /// A new root, its key wrapped for `passphrase` and for `recovery`. Nothing is on disk
    /// before [`Root::save`].
    pub fn create(
        org: &OrgName,
        passphrase: &Secret,
        recovery: &RecoveryKey,
        cost: Cost,
        now: Timestamp,
    ) -> Result<Self, CaError> {
        let subject = Subject::Organisation(org.clone());
        let key = key_for(&subject)?;
        let mut params = params(&subject, now, now.plus_seconds(ROOT_LIFETIME_SECONDS))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).map_err(encode(&subject))?;
        let secret = key.to_pkcs8().map_err(key_error(&subject))?;
        let context = root_context(org);
        let wrapped = WrappedRootKey {
            org: org.clone(),
            by_passphrase: Wrapped::by_passphrase(&secret, passphrase, context, cost)?,
            by_recovery: Wrapped::by_recovery(&secret, recovery, context)?,
        };
        Ok(Self { trust: TrustRoot::from_der(certificate.into())?, key, wrapped })
    }

    /// Writes `root.crt` and `root.key.wrapped`; never over another root.
    pub fn save(&self, dir: &Path) -> Result<(), CaError> {
        create_private_directory(dir)?;
        refuse_existing(&dir.join(ROOT_KEY_FILE))?;
        refuse_existing(&dir.join(ROOT_CERTIFICATE_FILE))?;
        write_json(&dir.join(ROOT_KEY_FILE), &self.wrapped)?;
        Ok(write_certificates(&dir.join(ROOT_CERTIFICATE_FILE), &[self.trust.der()])?)
    }

    /// Opens the root with its passphrase.
    pub fn open(dir: &Path, passphrase: &Secret) -> Result<Self, CaError> {
        Self::open_by(dir, |wrapped, context| {
            wrapped.by_passphrase.open_with_passphrase(passphrase, context)
        })
    }

    /// Opens the root when the passphrase is lost.
    pub fn open_with_recovery(dir: &Path, recovery: &RecoveryKey) -> Result<Self, CaError> {
        Self::open_by(dir, |wrapped, context| {
            wrapped.by_recovery.open_with_recovery(recovery, context)
        })
    }

    /// A new authority for a site, with a new key; a site's earlier ones stay valid.
    pub fn issue_site(&self, site: &SiteName, now: Timestamp) -> Result<Authority, CaError> {
        let facts = Facts::read(self.trust.der(), "root").map_err(CaError::Malformed)?;
        check_valid(&facts, now)?;
        let subject = Subject::Site(self.org().clone(), site.clone());
        let key = key_for(&subject)?;
        let end = now.plus_seconds(SITE_LIFETIME_SECONDS).min(facts.not_after);
        let mut params = params(&subject, now, end)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = sign(&params, &key.public(), self.trust.der(), &self.key, &subject)?;
        Authority::of(certificate, key, self.trust.clone())
    }

    /// The organisation.
    pub const fn org(&self) -> &OrgName {
        self.trust.org()
    }

    /// The public half, for everybody.
    pub const fn trust(&self) -> &TrustRoot {
        &self.trust
    }

    /// What tokens pin.
    pub const fn fingerprint(&self) -> RootFingerprint {
        self.trust.fingerprint()
    }

    fn open_by(
        dir: &Path,
        open: impl Fn(&WrappedRootKey, WrapContext<'_>) -> Result<Secret, WrapError>,
    ) -> Result<Self, CaError> {
        let trust = TrustRoot::load(&dir.join(ROOT_CERTIFICATE_FILE))?;
        let wrapped: WrappedRootKey = read_json(&dir.join(ROOT_KEY_FILE), "a wrapped root key")?;
        let subject = Subject::Organisation(trust.org().clone());
        let secret = open(&wrapped, root_context(trust.org()))?;
        let key = KeyPair::from_pkcs8(&secret).map_err(key_error(&subject))?;
        let facts = Facts::read(trust.der(), "root").map_err(CaError::Malformed)?;
        if facts.public_key != key.public() {
            return Err(CaError::KeyMismatch { holder: subject.to_uri() });
        }
        Ok(Self { trust, key, wrapped })
    }
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Root({})", self.org())
    }
}

/// A site's authority: it lies on the node that must go on when the other site is gone.
pub struct Authority {
    certificate: CertificateDer<'static>,
    facts: Facts,
    site: SiteName,
    key: KeyPair,
    root: TrustRoot,
}

impl Authority {
    /// Writes `site.key` (0600), `site.crt` and `root.crt`; never over another authority.
    pub fn save(&self, dir: &Path) -> Result<(), CaError> {
        create_private_directory(dir)?;
        refuse_existing(&dir.join(SITE_KEY_FILE))?;
        let subject = &self.facts.subject;
        let key = self.key.to_pem().map_err(key_error(subject))?;
        write_certificates(&dir.join(ROOT_CERTIFICATE_FILE), &[self.root.der()])?;
        write_certificates(&dir.join(SITE_CERTIFICATE_FILE), &[&self.certificate])?;
        Ok(write_private(&dir.join(SITE_KEY_FILE), key.expose())?)
    }

    /// Opens what [`Authority::save`] wrote.
    pub fn open(dir: &Path) -> Result<Self, CaError> {
        let root = TrustRoot::load(&dir.join(ROOT_CERTIFICATE_FILE))?;
        let certificate = read_certificates(&dir.join(SITE_CERTIFICATE_FILE))?.swap_remove(0);
        let holder = || format!("the authority in {}", dir.display());
        let key = KeyPair::from_pem(&read_private(&dir.join(SITE_KEY_FILE))?)
            .map_err(|source| CaError::Key { holder: holder(), source })?;
        Self::of(certificate, key, root)
    }

    /// The site it speaks for.
    pub const fn site(&self) -> &SiteName {
        &self.site
    }

    /// The organisation.
    pub const fn org(&self) -> &OrgName {
        self.root.org()
    }

    /// The root, as every new node must get it.
    pub const fn root(&self) -> &TrustRoot {
        &self.root
    }

    /// The root's certificate.
    pub const fn root_der(&self) -> &CertificateDer<'static> {
        self.root.der()
    }

    /// When the authority itself ends; the operator must have renewed it from the root by then.
    pub const fn not_after(&self) -> Timestamp {
        self.facts.not_after
    }

    /// The serial number of its own certificate: revoking it revokes all it ever issued.
    pub const fn serial(&self) -> Serial {
        self.facts.serial
    }

    /// A certificate for a node of this site; ends no later than the authority does.
    pub fn issue(
        &self,
        identity: &Identity,
        key: &PublicKey,
        now: Timestamp,
        lifetime_seconds: i64,
    ) -> Result<Chain, CaError> {
        if identity.org != *self.org() || identity.site != self.site {
            return Err(CaError::WrongSite {
                org: self.org().clone(),
                site: self.site.clone(),
                identity: Box::new(identity.clone()),
            });
        }
        if !(1..=NODE_LIFETIME_SECONDS_MAX).contains(&lifetime_seconds) {
            return Err(CaError::Lifetime { seconds: lifetime_seconds });
        }
        check_valid(&self.facts, now)?;
        let subject = Subject::Node(identity.clone());
        let end = now.plus_seconds(lifetime_seconds).min(self.facts.not_after);
        let mut params = params(&subject, now, end)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages(identity.role).to_vec();
        let leaf = sign(&params, key, &self.certificate, &self.key, &subject)?;
        Ok(Chain { leaf, intermediate: self.certificate.clone() })
    }

    /// Answers a request, when it asks for exactly the identity that was `granted` by a token
    /// or, at renewal, by the certificate the request came in under.
    pub fn issue_request(
        &self,
        request: &CertRequest,
        granted: &Identity,
        now: Timestamp,
        lifetime_seconds: i64,
    ) -> Result<Chain, CaError> {
        if request.identity != *granted {
            return Err(CaError::Asked {
                asked: Box::new(request.identity.clone()),
                granted: Box::new(granted.clone()),
            });
        }
        self.issue(granted, &request.public_key, now, lifetime_seconds)
    }

    fn of(
        certificate: CertificateDer<'static>,
        key: KeyPair,
        root: TrustRoot,
    ) -> Result<Self, CaError> {
        let facts = Facts::read(&certificate, "site").map_err(CaError::Malformed)?;
        let site = match &facts.subject {
            Subject::Site(org, site) if org == root.org() => site.clone(),
            other => {
                let (subject, org) = (other.to_uri(), root.org().clone());
                return Err(CaError::NotAuthority { subject, org });
            }
        };
        if facts.public_key != key.public() {
            return Err(CaError::KeyMismatch { holder: facts.subject.to_uri() });
        }
        Ok(Self { certificate, facts, site, key, root })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({} of {})", self.site, self.org())
    }
}

/// Only the roles that listen may act as servers: a stolen agent cannot play coordinator.
const fn usages(role: Role) -> &'static [ExtendedKeyUsagePurpose] {
    const BOTH: &[ExtendedKeyUsagePurpose] =
        &[ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    const CLIENT: &[ExtendedKeyUsagePurpose] = &[ExtendedKeyUsagePurpose::ClientAuth];
    match role {
        Role::Coordinator | Role::Proxy => BOTH,
        Role::Agent | Role::Operator => CLIENT,
    }
}

fn root_context(org: &OrgName) -> WrapContext<'_> {
    WrapContext { purpose: "root key", owner: org.as_str() }
}
