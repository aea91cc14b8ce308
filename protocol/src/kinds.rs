//! How many kinds an enum has, asked of its derived code: a number that cannot be forgotten when
//! a kind is appended. Refuses everything else: what is no enum has none.

use std::fmt;

use serde::de::{DeserializeOwned, Deserializer, Error, Visitor};
use serde::forward_to_deserialize_any;

/// How many variants the enum `T` has; none where it is no enum.
pub(crate) fn kinds<T: DeserializeOwned>() -> u32 {
    T::deserialize(Asked).err().map_or(0, |told| told.0)
}

/// Gives nothing to any type, but hears from an enum which variants it has.
struct Asked;

/// What was heard.
#[derive(Debug)]
struct Told(u32);

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} variants", self.0)
    }
}

impl std::error::Error for Told {}

impl Error for Told {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(0)
    }
}

impl<'de> Deserializer<'de> for Asked {
    type Error = Told;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Told> {
        Err(Told(0))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Told> {
        Err(Told(u32::try_from(variants.len()).unwrap_or(u32::MAX)))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    enum Shapes {
        One,
        Two(()),
        Three { _more: String },
    }

    #[test]
    fn an_enum_is_counted_and_nothing_else_is() {
        assert_eq!(kinds::<Shapes>(), 3);
        assert_eq!(kinds::<Option<Shapes>>(), 0);
        assert_eq!(kinds::<(u8, Shapes)>(), 0);
    }
}
