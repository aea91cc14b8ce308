//! Tables as bytes by hand, whole and hostile.

use super::*;

fn no() -> bool {
    false
}
