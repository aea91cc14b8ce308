//! The bytes of one file of a point, from anywhere in it, with some fetched ahead.
