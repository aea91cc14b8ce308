#!/usr/bin/env python3
"""A second reader of Strongroom media, written from docs/medium.md and docs/format.md alone.

Restores a point from the blocks of one or more cartridges, without any part of Strongroom and
with nothing but Python's standard library, libcrypto (AES-GCM) and libzstd. Slow on purpose:
it is to be read. Every hash, seal and name is checked; the first that does not hold ends it.

    medium.py --recovery-key KEY --into DIR CARTRIDGE...      restore the newest point
    medium.py --list CARTRIDGE...                              what lies there; needs no key

A CARTRIDGE is a file of the directory-backed library (BARCODE.tape), the backing file of a
cartridge of tgt, or a directory with one file for each file of the medium (as `dd` gives them:
00000, 00001, ...).
"""

import argparse
import ctypes
import ctypes.util
import os
import stat
import struct
import sys
import uuid

# ---- BLAKE3 ---------------------------------------------------------------------------------

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
      0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
ORDER = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
KEYED, CONTEXT, MATERIAL = 16, 32, 64
LANES = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
         (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
M = 0xFFFFFFFF


def compress(value, words, counter, length, flags):
    v = list(value) + [IV[0], IV[1], IV[2], IV[3], counter & M, counter >> 32, length, flags]
    m = words
    for turn in range(7):
        for i, (a, b, c, d) in enumerate(LANES):
            va = (v[a] + v[b] + m[2 * i]) & M
            x = v[d] ^ va
            vd = ((x >> 16) | (x << 16)) & M
            vc = (v[c] + vd) & M
            x = v[b] ^ vc
            vb = ((x >> 12) | (x << 20)) & M
            va = (va + vb + m[2 * i + 1]) & M
            x = vd ^ va
            vd = ((x >> 8) | (x << 24)) & M
            vc = (vc + vd) & M
            x = vb ^ vc
            v[a], v[b], v[c], v[d] = va, ((x >> 7) | (x << 25)) & M, vc, vd
        if turn < 6:
            m = [m[i] for i in ORDER]
    return [v[i] ^ v[i + 8] for i in range(8)]


def blake3(data, key=IV, flags=0):
    """32 bytes; a tree of chunks of 1024 bytes, the left side of each node a power of two."""

    def finish(value, words, counter, length, more):
        return struct.pack("<8I", *compress(value, words, counter, length, more | ROOT))

    def chunk(index, last):
        part = data[index * 1024:(index + 1) * 1024]
        value, blocks = list(key), max(1, (len(part) + 63) // 64)
        for n in range(blocks):
            block = bytes(part[n * 64:n * 64 + 64])
            words = list(struct.unpack("<16I", block.ljust(64, b"\0")))
            more = flags | (CHUNK_START if n == 0 else 0) | (CHUNK_END if n == blocks - 1 else 0)
            if last and n == blocks - 1:
                return finish(value, words, index, len(block), more)
            value = compress(value, words, index, len(block), more)
        return value

    chunks = max(1, (len(data) + 1023) // 1024)
    if chunks == 1:
        return chunk(0, True)

    def tree(first, count, root):
        if count == 1:
            return chunk(first, False)
        left = 1 << ((count - 1).bit_length() - 1)
        words = tree(first, left, False) + tree(first + left, count - left, False)
        if root:
            return finish(list(key), words, 0, 64, flags | PARENT)
        return compress(key, words, 0, 64, flags | PARENT)

    return tree(0, chunks, True)


def keyed(key, data):
    return blake3(data, struct.unpack("<8I", key), KEYED)


def derive(context, material):
    key = struct.unpack("<8I", blake3(context.encode(), IV, CONTEXT))
    return blake3(material, key, MATERIAL)


# ---- AES-256-GCM and zstd, from the system's libraries ------------------------------------------

crypto = ctypes.CDLL(ctypes.util.find_library("crypto") or "libcrypto.so.3")
zstd = ctypes.CDLL(ctypes.util.find_library("zstd") or "libzstd.so.1")
crypto.EVP_CIPHER_CTX_new.restype = ctypes.c_void_p
crypto.EVP_aes_256_gcm.restype = ctypes.c_void_p
zstd.ZSTD_decompress.restype = ctypes.c_size_t
zstd.ZSTD_decompress.argtypes = [ctypes.c_char_p, ctypes.c_size_t] * 2


def fail(text):
    sys.exit("medium.py: " + text)


def unseal(key, nonce, sealed, data):
    """AES-256-GCM: the plaintext, or the end."""
    text, tag = sealed[:-16], sealed[-16:]
    context = ctypes.c_void_p(crypto.EVP_CIPHER_CTX_new())
    cipher = ctypes.c_void_p(crypto.EVP_aes_256_gcm())
    crypto.EVP_DecryptInit_ex(context, cipher, None, key, nonce)
    out, length = ctypes.create_string_buffer(len(text) + 16), ctypes.c_int(0)
    crypto.EVP_DecryptUpdate(context, None, ctypes.byref(length), data, len(data))
    if text:
        crypto.EVP_DecryptUpdate(context, out, ctypes.byref(length), text, len(text))
    crypto.EVP_CIPHER_CTX_ctrl(context, 0x11, 16, tag)
    rest = ctypes.create_string_buffer(16)
    good = crypto.EVP_DecryptFinal_ex(context, rest, ctypes.byref(length))
    crypto.EVP_CIPHER_CTX_free(context)
    if good != 1:
        fail("a seal does not hold: another key, or damage")
    return out.raw[:len(text)]


def decompress(data, length):
    out = ctypes.create_string_buffer(max(1, length))
    if zstd.ZSTD_decompress(out, length, data, len(data)) != length:
        fail("a blob does not decompress to its length")
    return out.raw[:length]


# ---- postcard -----------------------------------------------------------------------------------


class Post:
    """Reads postcard: varints, zigzag, lengths before bytes and lists, nothing before ids."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, length):
        if self.at + length > len(self.data):
            fail("a structure is cut")
        part = self.data[self.at:self.at + length]
        self.at += length
        return part

    def byte(self):
        return self.take(1)[0]

    def number(self):
        value, shift = 0, 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def signed(self):
        value = self.number()
        return (value >> 1) ^ -(value & 1)

    def bytes(self):
        return self.take(self.number())

    def text(self):
        return self.bytes().decode()

    def list(self, one):
        return [one() for _ in range(self.number())]

    def maybe(self, one):
        return one() if self.byte() else None

    def end(self):
        if self.at != len(self.data):
            fail("bytes behind a structure")


# ---- blocks and files of a cartridge ------------------------------------------------------------


def frames(data):
    """The directory-backed library: b"SRBK", kind, 3 zeros, 3 u32, two checks; then the block."""
    at, number = 0, 0
    while at + 32 <= len(data):
        magic, kind, length, index, _, check, own = struct.unpack("<4sB3xIII8s4s", data[at:at + 32])
        if magic != b"SRBK" or index != number or blake3(data[at:at + 28])[:4] != own:
            fail("a block's head does not hold at byte %d" % at)
        if kind == 2:
            yield None
        else:
            block = data[at + 32:at + 32 + length]
            if blake3(block)[:8] != check:
                fail("a block does not hold at byte %d" % at)
            yield block
        at, number = at + 32 + length, number + 1


def tgt_blocks(data):
    """The backing file of tgt: heads of 48 bytes, big-endian, each naming the next."""
    at = struct.unpack(">Q", data[40:48])[0]
    while True:
        _, size, _, kind, _, _, _, after = struct.unpack(">4sIIIQQQQ", data[at:at + 48])
        if kind == 0x20:
            return
        yield None if kind == 0x40 else data[at + 48:at + 48 + size]
        at = after


def files_of(path):
    """The files of a cartridge, each whole in memory; the last may lack its filemark."""
    if os.path.isdir(path):
        names = sorted(name for name in os.listdir(path) if name.isdigit())
        return [open(os.path.join(path, name), "rb").read() for name in names]
    data = open(path, "rb").read()
    blocks = frames(data) if data[:4] == b"SRBK" else tgt_blocks(data)
    files, parts = [], []
    for block in blocks:
        if block is None:
            files.append(b"".join(parts))
            parts = []
        else:
            parts.append(block)
    return files + ([b"".join(parts)] if parts else [])


# ---- label, catalog -----------------------------------------------------------------------------


def checked(data, *magics):
    """What lies between the magic and the BLAKE3 at the end, or None."""
    if data[:8] not in magics or blake3(data[:-32]) != data[-32:]:
        return None
    return data[8:-32]


def label(post):
    return {"medium": post.take(16), "barcode": post.text(), "set": post.text(),
            "sequence": post.number(), "org": post.text(), "repo": post.take(16),
            "written": post.signed(), "block": post.number()}


def entry(post):
    one = {"file": post.number(), "session": post.number(), "bytes": post.number()}
    kind = post.number()
    if kind > 3:
        fail("a catalog names a file of an unknown kind")
    one["what"] = ("config", "keys", "pack", "point")[kind]
    if kind == 2:
        one["id"], one["class"] = post.take(32), post.number()
    if kind == 3:
        one["workload"], one["id"], one["moment"] = post.take(16), post.take(16), post.signed()
    return one


def catalog(body):
    post = Post(body)
    found = {"label": label(post), "session": post.number(), "written": post.signed(),
             "file": post.number(), "state": post.number(),
             "entries": post.list(lambda: entry(post)), "history": post.number()}
    found["earlier"] = post.list(lambda: {
        "label": label(post), "state": post.number(), "entries": post.list(lambda: entry(post))})
    post.end()
    return found


def medium(path):
    """A cartridge: its files and its last whole catalog, looked for from the end."""
    files = files_of(path)
    for number in range(len(files) - 1, 0, -1):
        body = checked(files[number], b"SRCATL01")
        if body is not None:
            found = catalog(body)
            if found["file"] != number:
                fail("%s: a catalog is not the file it says" % path)
            return {"path": path, "files": files, "catalog": found}
    fail("%s: no catalog; a scan would be needed" % path)


# ---- keys ---------------------------------------------------------------------------------------

LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def recovery_bytes(text):
    """52 symbols of 5 bits, four to a group of five letters; the fifth checks its group."""
    groups = text.strip().upper().split("-")
    symbols = [LETTERS.index(letter) for group in groups[:13] for letter in group[:4]]
    number = 0
    for symbol in symbols:
        number = number << 5 | symbol
    return (number >> 4).to_bytes(32, "big")


def unwrap(keys, recovery):
    """The keys of every epoch, from the record for a recovery key."""
    body = checked(keys, b"SRKEYS01", b"SRKEYS02")
    if body is None:
        fail("the keys file is damaged")
    post = Post(body)
    post.take(16)
    if keys[:8] == b"SRKEYS02":
        post.list(lambda: post.take(32))
    for record in post.list(post.bytes):
        wrap = Post(record)
        wrap.byte(), wrap.text(), wrap.text()
        if wrap.number() != 1:
            continue
        salt = wrap.bytes()
        head = bytes([21]) + b"strongroom v1 wrapped" + record[:wrap.at]
        nonce, sealed, check = wrap.bytes(), wrap.bytes(), wrap.bytes()
        if derive("strongroom v1 wrapped checksum", head + nonce + sealed) != check:
            fail("the record of the recovery key is damaged")
        key = derive("strongroom v1 recovery kek", recovery + salt)
        plain = unseal(key, nonce, sealed, head)
        return [plain[at:at + 32] for at in range(0, len(plain), 32)]
    fail("no record in the keys file is for a recovery key")


# ---- packs and blobs ----------------------------------------------------------------------------


class Vault:
    """Every blob of the packs that were read, opened and named when it is asked for."""

    def __init__(self, repo, keys):
        self.repo, self.keys, self.places = repo, keys, {}
        self.names = derive("strongroom v1 id key", keys[0])

    def add(self, name, pack):
        if blake3(pack) != name:
            fail("a pack is not what its name says: " + name.hex())
        if pack[:8] != b"SRPACK01" or pack[8:24] != self.repo:
            fail("a pack of something else")
        epoch = struct.unpack("<I", pack[28:32])[0]
        end = struct.unpack("<Q", pack[-48:-40])[0]
        at = 64
        while at < end:
            magic, kind, how, _, plain, sealed, count = struct.unpack("<IBBHIII", pack[at:at + 20])
            length = 68 + 33 * count + sealed
            if magic != 0x31424C53:
                fail("a record does not begin where it should")
            check = blake3(pack[at:at + 20] + pack[at + 24:at + 68 + 33 * count])[:4]
            if check != pack[at + 20:at + 24]:
                fail("the head of a record does not hold")
            place = (kind, how, plain, count, epoch, pack[at:at + length])
            self.places[pack[at + 24:at + 56]] = place
            at += length

    def blob(self, kind, name):
        """Its plaintext and its references."""
        if name not in self.places:
            fail("a blob is on none of these cartridges: " + name.hex())
        found, how, plain, count, epoch, record = self.places[name]
        if found != kind:
            fail("a blob of another kind than is referred to")
        references = record[68:68 + 33 * count]
        data = b"".join([self.repo, name, bytes([kind, how]), struct.pack("<II", plain, count),
                         blake3(references)])
        key = derive("strongroom v1 seal key", self.keys[epoch - 1] + bytes([kind]) + name)
        text = unseal(key, record[56:68], record[68 + 33 * count:], data)
        text = decompress(text, plain) if how == 1 else text
        named = keyed(self.names, bytes([kind]) + struct.pack("<I", count) + references + text)
        if len(text) != plain or named != name:
            fail("a blob is not what its name says")
        return text, [references[n + 1:n + 33] for n in range(0, 33 * count, 33)]


def manifest(data, keys):
    """Head and the first fields of the body."""
    if checked(data, b"SRPOIN01") is None:
        fail("a manifest is damaged")
    length = struct.unpack("<I", data[8:12])[0]
    head = data[12:12 + length]
    post = Post(head)
    found = {"repo": post.take(16), "workload": post.take(16), "id": post.take(16),
             "moment": post.signed(), "kind": post.byte(),
             "roots": post.list(lambda: (post.byte(), post.take(32))),
             "epoch": post.number(), "reader": post.number()}
    if found["reader"] > 2:
        fail("a point of a newer version")
    at = 12 + length
    sealed = struct.unpack("<I", data[at:at + 4])[0]
    nonce, body = data[at + 4:at + 16], data[at + 16:at + 16 + sealed]
    if not 1 <= found["epoch"] <= len(keys):
        fail("the point is sealed under key epoch %d, %d are given" % (found["epoch"], len(keys)))
    key = derive("strongroom v1 point key", keys[found["epoch"] - 1] + found["id"])
    post = Post(unseal(key, nonce, body, head))
    found["name"], found["agent"], found["source"] = post.text(), post.text(), post.text()
    found["consistency"], found["frozen"] = post.number(), post.number()
    found["root"] = post.take(32)
    return found


# ---- trees --------------------------------------------------------------------------------------

DATA, PAGE, LIST = 0, 1, 2
DIRECTORY, FILE, LINK, FIFO, SOCKET, CHARACTER, BLOCK = range(7)


def extent(post, references):
    if post.number() == 0:
        name = references[post.number()]
        return name, post.number(), post.number()
    return None, 0, post.number()


def page(vault, name):
    """The entries of a directory, its pages one after another."""
    text, references = vault.blob(PAGE, name)
    post = Post(text)
    if post.number() == 1:
        post.byte()
        children = post.list(lambda: (post.bytes(), post.number()))
        post.end()
        for _, child in children:
            yield from page(vault, references[child])
        return
    for _ in range(post.number()):
        one = {"name": post.bytes(), "kind": post.number()}
        if one["kind"] == DIRECTORY:
            one["page"] = references[post.number()]
        elif one["kind"] == FILE:
            one["size"], how = post.number(), post.number()
            if how == 0:
                one["inline"] = post.bytes()
            elif how == 1:
                one["extents"] = post.list(lambda: extent(post, references))
            else:
                one["list"] = references[post.number()]
        elif one["kind"] == LINK:
            one["target"] = post.bytes()
        elif one["kind"] in (CHARACTER, BLOCK):
            one["device"] = os.makedev(post.number(), post.number())
        elif one["kind"] > BLOCK:
            fail("an entry of an unknown kind")
        one.update(mode=post.number(), uid=post.number(), gid=post.number(), mtime=post.signed(),
                   birth=post.maybe(post.signed), flags=post.number(), project=post.number(),
                   xattrs=post.list(lambda: (post.bytes(), post.bytes())), group=post.number())
        yield one
    post.end()


def listed(vault, name):
    text, references = vault.blob(LIST, name)
    post = Post(text)
    post.byte()
    if post.number() == 0:
        extents = post.list(lambda: extent(post, references))
        post.end()
        yield from extents
        return
    for child, _ in post.list(lambda: (post.number(), post.number())):
        yield from listed(vault, references[child])


def write_file(vault, one, path):
    with open(path, "xb") as out:
        if "inline" in one:
            out.write(one["inline"])
        else:
            extents = one.get("extents")
            for name, offset, length in extents if extents is not None else listed(vault, one["list"]):
                if name is None:
                    out.seek(length, os.SEEK_CUR)
                else:
                    part = vault.blob(DATA, name)[0][offset:offset + length]
                    if len(part) != length:
                        fail("an extent reaches past its chunk")
                    out.write(part)
        out.truncate(one["size"])


def dress(one, path):
    """Owner, mode, attributes, time; in the order in which none undoes another."""
    os.chown(path, one["uid"], one["gid"], follow_symlinks=False)
    if one["kind"] != LINK:
        os.chmod(path, one["mode"])
    for name, value in one["xattrs"]:
        try:
            os.setxattr(path, name, value, follow_symlinks=False)
        except OSError as error:
            print("medium.py: %r: %r cannot be set here: %s" % (path, name, error.strerror))
    os.utime(path, ns=(one["mtime"], one["mtime"]), follow_symlinks=False)


def restore(vault, name, into, groups):
    count = 0
    for one in page(vault, name):
        path = os.path.join(into, one["name"])
        if one["name"] in (b"", b".", b"..") or b"/" in one["name"] or b"\0" in one["name"]:
            fail("a name that leads elsewhere")
        count += 1
        known = groups.get(one["group"]) if one["group"] else None
        if known is not None:
            os.link(known, path, follow_symlinks=False)
            continue
        if one["kind"] == DIRECTORY:
            os.mkdir(path, 0o700)
            count += restore(vault, one["page"], path, groups)
        elif one["kind"] == FILE:
            write_file(vault, one, path)
        elif one["kind"] == LINK:
            os.symlink(one["target"], path)
        else:
            kind = {FIFO: stat.S_IFIFO, SOCKET: stat.S_IFSOCK, CHARACTER: stat.S_IFCHR,
                    BLOCK: stat.S_IFBLK}[one["kind"]]
            os.mknod(path, kind | 0o600, one.get("device", 0))
        dress(one, path)
        if one["group"]:
            groups[one["group"]] = path
    return count


# ---- the whole ----------------------------------------------------------------------------------


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--recovery-key", help="the text of the sheet of paper, or @FILE")
    options.add_argument("--vault-key", help="a file with the vault key of every epoch")
    options.add_argument("--into", help="an empty directory")
    options.add_argument("--point", help="the point's UUID; the newest if none is given")
    options.add_argument("--list", action="store_true")
    options.add_argument("cartridge", nargs="+")
    order = options.parse_args()
    media = [medium(path) for path in order.cartridge]
    found = {}
    for one in media:
        for item in one["catalog"]["entries"]:
            if item["what"] == "point":
                found[item["id"]] = (item["moment"], item["session"], one, item)
            if order.list:
                name = item.get("id", b"").hex()
                print(one["catalog"]["label"]["barcode"], item["file"], item["what"],
                      item["session"], item["bytes"], name)
    if order.list:
        return
    if not order.into or not (order.recovery_key or order.vault_key):
        fail("--into and a key are wanted")
    wanted = uuid.UUID(order.point).bytes if order.point else \
        max(found, key=lambda name: found[name][0], default=None)
    if wanted not in found:
        fail("no such point on these cartridges")
    _, session, holder, item = found[wanted]
    repo = holder["catalog"]["label"]["repo"]
    if order.vault_key:
        secret = open(order.vault_key, "rb").read()
        keys = [secret[at:at + 32] for at in range(0, len(secret), 32)]
    else:
        text = order.recovery_key
        text = open(text[1:]).read() if text.startswith("@") else text
        newest = max((one for one in media if one["catalog"]["label"]["repo"] == repo),
                     key=lambda one: one["catalog"]["session"])
        last = max(one["file"] for one in newest["catalog"]["entries"] if one["what"] == "keys")
        keys = unwrap(newest["files"][last], recovery_bytes(text))
    vault = Vault(repo, keys)
    for one in media:
        for pack in one["catalog"]["entries"]:
            # A point needs no pack whose first session is later than its own.
            if pack["what"] == "pack" and pack["session"] <= session:
                vault.add(pack["id"], one["files"][pack["file"]])
    point = manifest(holder["files"][item["file"]], keys)
    into = os.fsencode(order.into)
    os.makedirs(into, exist_ok=True)
    count = restore(vault, point["root"], into, {})
    print("%s of %s: %d entries in %s" % (uuid.UUID(bytes=wanted), point["name"], count, order.into))


if __name__ == "__main__":
    main()
