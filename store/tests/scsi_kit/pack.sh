#!/bin/sh
# pack.sh OUT KERNEL_ROOT KERNEL_VERSION PROGRAM VARIABLE MODULE...
# A guest that is a busybox and a test program with its libraries: it loads the modules, runs the
# program with VARIABLE set, says GUEST-RESULT and its code on the console, and ends.
set -eu
out=$1 root=$2 version=$3 program=$4 variable=$5
shift 5
base=$root
[ -d "$root/lib/modules/$version" ] || base=$root/usr
[ -f "$base/lib/modules/$version/modules.dep" ] || depmod -b "$base" "$version"
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
for dir in bin dev proc sys tmp lib/m; do mkdir -p "$tree/$dir"; done
busybox=$(command -v busybox)
cp -L "$busybox" "$tree/bin/busybox"
for word in $("$busybox" --list); do
  [ "$word" = busybox ] || ln -sf busybox "$tree/bin/$word"
done
for module in "$@"; do
  modprobe -d "$base" -S "$version" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
  name=$(basename "$file")
  case $name in
    *.xz) name=${name%.xz}; xz -dc "$file" > "$tree/lib/m/$name" ;;
    *.zst) name=${name%.zst}; zstd -dqc "$file" > "$tree/lib/m/$name" ;;
    *) cp "$file" "$tree/lib/m/$name" ;;
  esac
  echo "$name" >> "$tree/lib/m/order"
done
cp -L "$program" "$tree/bin/inside"
ldd "$program" | { grep -o '/[^ )]*' || true; } | while read -r library; do
  mkdir -p "$tree$(dirname "$library")"
  [ -e "$tree$library" ] || cp -L "$library" "$tree$library"
done
cat > "$tree/init" <<INIT
#!/bin/sh
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read -r module; do insmod "/lib/m/\$module"; done < /lib/m/order
for wait in 1 2 3 4 5 6 7 8 9 10; do [ -e /dev/sg2 ] && break; sleep 1; done
$variable=1 inside --nocapture --test-threads 1 > /dev/ttyS0 2>&1
echo "GUEST-RESULT \$?" > /dev/ttyS0
sleep 1
poweroff -f
INIT
chmod +x "$tree/init"
(cd "$tree" && find . | cpio -o -H newc --quiet | gzip -1) > "$out"
