# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091
# What: the rig itself: stock drivers, programs and file systems work in a VM.
# VM: disks=64M,512M modules="null_blk dm_mod sd_mod +scsi_debug +ext4 +xfs" timeout=120 kernels=all
# VM: tools="fio dmsetup mkfs.ext4 mkfs.xfs mount umount blockdev setpriv"
# VM: files="tests/fio:/lib/jobs /usr/share/common-licenses:/usr/share/common-licenses"
. /lib/tap.sh

write() {
	fio --name=w --filename="$1" --rw=randwrite --bs=4k --size=4M --ioengine=io_uring --direct=1
}

mount_and_use() { # TYPE DISK
	mkdir -p "/mnt/$1" && mount -t "$1" "$2" "/mnt/$1" && echo hello >"/mnt/$1/f" && umount "/mnt/$1" &&
		mount -t "$1" "$2" "/mnt/$1" && grep -q hello "/mnt/$1/f" && umount "/mnt/$1"
}

is "the kernel asked for is running" "$(uname -r)" "$KERNEL"
is "disks have the sizes asked for" "$(blockdev --getsize64 /dev/vda /dev/vdb | xargs)" "67108864 536870912"
is "a disk has its name as serial" "$(cat /sys/block/vdb/serial)" vdb
ok "fio writes to null_blk" write /dev/nullb0
ok "fio writes to a virtio disk" write /dev/vda
ok "dm-linear is made" sh -c 'echo 0 65536 linear /dev/vda 8 | dmsetup create lin'
ok "fio writes through dm-linear" write /dev/mapper/lin
ok "dm-linear is removed" dmsetup remove lin
ok "scsi_debug loads" modprobe scsi_debug dev_size_mb=32 lbpu=1
ok "its disk shows up" wait_for 20 test -b /dev/sda
ok "ext4 is made" mkfs.ext4 -q /dev/vda
ok "ext4 holds a file" mount_and_use ext4 /dev/vda
ok "xfs is made" mkfs.xfs -q -f /dev/vdb
ok "xfs holds a file" mount_and_use xfs /dev/vdb
ok "a folder of the project is there" test -s /lib/jobs/verify.fio
ok "a folder of the host is there" test -s /usr/share/common-licenses/GPL-3
is "its links are what they point to" "$(test -L /usr/share/common-licenses/GPL || cat /usr/share/common-licenses/GPL)" \
	"$(cat /usr/share/common-licenses/GPL-3)"
ok "whoever is not root can read it" setpriv --reuid=65534 --regid=65534 --clear-groups \
	sh -c 'cat /usr/share/common-licenses/GPL-3'
fails "a failing command fails" "can't open" cat /nonexistent
done_testing
