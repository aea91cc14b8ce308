//! The key in a node's directory by which it ends what an earlier process of it left open at
//! its peers. Made at the first start; losing it costs peers a wait, nothing else.

use strongroom_certs::{files, secret};
use strongroom_protocol::link::LastingKey;

use crate::home::{Home, HomeError};

const KEY_FILE: &str = "lasting.key";

/// The node's key, made now if it has none.
pub fn lasting_key(home: &Home) -> Result<LastingKey, HomeError> {
    let path = home.path(KEY_FILE);
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| HomeError::Part {
        what: "the key of its connections",
        path: home.dir().to_owned(),
        source,
    };
    match files::read_private(&path) {
        Ok(kept) => {
            let bytes = <[u8; 32]>::try_from(kept.expose());
            bytes.map(LastingKey::new).map_err(|_| {
                failed(format!("{} is not 32 bytes; remove it", path.display()).into())
            })
        }
        Err(error) if error.is_missing() => {
            let bytes: [u8; 32] = secret::random().map_err(|error| failed(error.into()))?;
            files::write_private(&path, &bytes).map_err(|error| failed(error.into()))?;
            Ok(LastingKey::new(bytes))
        }
        Err(error) => Err(failed(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Settings;

    #[test]
    fn the_key_outlives_the_process_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let text = "org = 'lab'\nsite = 'a'\nrole = 'coordinator'\nname = 'coordinator'";
        let settings: Settings = toml::from_str(text).unwrap();
        let home = Home::create(dir.path(), settings).unwrap();
        lasting_key(&home).unwrap();
        let path = home.path(KEY_FILE);
        let first = std::fs::read(&path).unwrap();
        lasting_key(&home).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
        std::fs::write(&path, b"short").unwrap();
        assert!(lasting_key(&home).is_err());
    }
}
