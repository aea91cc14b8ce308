//! The lab's storage policy, written as a person would write it.

use std::path::Path;

use anyhow::bail;

/// The policy file for a tree and its changing part.
pub(crate) fn text(source: &Path, changing: &Path) -> anyhow::Result<String> {
    let (Some(source), Some(changing)) = (source.to_str(), changing.to_str()) else {
        bail!("{} has a name that a policy file cannot hold", source.display());
    };
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    Ok(format!(
        r#"# The storage policy of the lab. Edit it, look at what would change with
# `strongroom policy plan policy.toml`, put it in force with `strongroom policy apply policy.toml`.

[policy.standard]
schedule = "daily 22:00"
timezone = "Europe/London"
require = "fuzzy"

[policy.standard.primary]            # the primary snap, at site a
keep = {{ newest = 10, days = 14, weeks = 8 }}

[policy.standard.copy.secondary]     # the secondary snap, at the proxy of site b
kind = "secondary-snap"
from = "primary"
node = "proxy"
keep = {{ newest = 10, days = 30, months = 12 }}

[policy.standard.copy.tape]          # the aux copy, on cartridges at site b
kind = "aux"
from = "secondary"
media_set = "weekly"
min_proof = "hash-verified"
keep = {{ newest = 10, months = 12, years = 7 }}

[workload."tree@host1"]
agent = "host1"
kind = "files"
path = {}
policy = "standard"
one_file_system = false

[workload."changing@host1"]
agent = "host1"
kind = "files"
path = {}
policy = "standard"
"#,
        quoted(source),
        quoted(changing),
    ))
}
