//! A tree of files that two sites protect, as its policy says it.

use std::path::Path;

pub(crate) const TREE: &str = "tree@host1";

/// The policy of a tree with a copy at the other site, and what else it is to say.
pub(crate) fn policy(source: &Path, more: &str) -> String {
    let source = source.display();
    format!(
        r#"
[policy.p]
timezone = "Europe/London"
require = "fuzzy"
[policy.p.primary]
keep = {{ newest = 100 }}
[policy.p.copy.secondary]
kind = "secondary-snap"
from = "primary"
node = "proxy"
keep = {{ newest = 100 }}
{more}
[workload."{TREE}"]
agent = "host1"
kind = "files"
path = "{source}"
policy = "p"
"#
    )
}

/// A copy on media, read back.
pub(crate) const TAPE: &str = r#"
[policy.p.copy.tape]
kind = "aux"
from = "secondary"
media_set = "weekly"
min_proof = "hash-verified"
keep = { newest = 100 }
"#;
