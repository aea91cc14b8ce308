//! A disk image of a point as a network block device.
