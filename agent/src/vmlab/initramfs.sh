#!/bin/sh
# initramfs.sh OUT KERNEL_ROOT KERNEL_VERSION PROGRAM...
# A guest that is a busybox, a QEMU guest agent and the programs named, or given by their paths: all
# in memory. LAB_MODULES are loaded beside what it needs of its kernel. It mounts
# the ext4 file systems on its disks at /mnt/vda, /mnt/vdb, ..., says GUEST-READY on ttyS0, and
# runs the script that its kernel's word lab.run= holds in base64.
set -eu
out=$1 root=$2 version=$3
shift 3
modules=$root/lib/modules/$version
base=$root
[ -d "$modules" ] || { modules=$root/usr/lib/modules/$version; base=$root/usr; }
[ -f "$modules/modules.dep" ] || depmod -b "$base" "$version"
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
for dir in bin sbin dev proc sys mnt tmp run etc root var lib/m usr/sbin usr/bin; do
  mkdir -p "$tree/$dir"
done
busybox=$(command -v busybox)
cp -L "$busybox" "$tree/bin/busybox"
for word in $("$busybox" --list); do
  [ "$word" = busybox ] || ln -sf busybox "$tree/bin/$word"
done
: > "$tree/etc/modules"
for module in virtio_pci virtio_blk virtio_console ext4 ${LAB_MODULES:-}; do
  modprobe -d "$base" -S "$version" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
  name=$(basename "$file")
  case $name in
    *.xz) name=${name%.xz}; xz -dc "$file" > "$tree/lib/m/$name" ;;
    *.zst) name=${name%.zst}; zstd -dqc "$file" > "$tree/lib/m/$name" ;;
    *) cp "$file" "$tree/lib/m/$name" ;;
  esac
  echo "$name" >> "$tree/etc/modules"
done
for program in qemu-ga "$@"; do
  file=$(PATH=$PATH:/usr/sbin:/sbin command -v "$program")
  file=$(readlink -f "$file")
  mkdir -p "$tree/usr/bin"
  rm -f "$tree/bin/${program##*/}"
  cp -L "$file" "$tree/usr/bin/${program##*/}"
  { ldd "$file" 2>/dev/null || true; } | { grep -o '/[^ )]*' || true; } | while read -r library; do
    mkdir -p "$tree$(dirname "$library")"
    [ -e "$tree$library" ] || cp -L "$library" "$tree$library"
  done
done
cat > "$tree/init" <<'INIT'
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read -r module; do insmod "/lib/m/$module"; done < /etc/modules
mkdir -p /dev/virtio-ports
for port in /sys/class/virtio-ports/*; do
  name=$(cat "$port/name" 2>/dev/null)
  [ -n "$name" ] && ln -sf "../${port##*/}" "/dev/virtio-ports/$name"
done
for disk in /dev/vd?; do
  [ -b "$disk" ] || continue
  mkdir -p "/mnt/${disk#/dev/}"
  mount -t ext4 "$disk" "/mnt/${disk#/dev/}" 2>/dev/null || rmdir "/mnt/${disk#/dev/}"
done
qemu-ga -d -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -f /run/qga.pid -t /run
echo GUEST-READY > /dev/ttyS0
for word in $(cat /proc/cmdline); do
  case $word in
    lab.run=*) echo "${word#lab.run=}" | base64 -d > /run/lab.sh; setsid sh /run/lab.sh > /dev/null 2>&1 & ;;
  esac
done
while :; do sleep 3600; done
INIT
chmod +x "$tree/init"
(cd "$tree" && find . | cpio -o -H newc --quiet | gzip -1) > "$out"
