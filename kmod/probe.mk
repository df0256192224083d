# SPDX-License-Identifier: GPL-2.0
#
# What this kernel has, found by compiling kmod/probe_NAME.c with the kernel's
# own flags: it compiles -> -DBLKCBT_HAVE_NAME. Few on purpose: whatever the C
# language or a macro of the kernel can tell is told in kmod/compat.h.

blkcbt-probe-flags = $(NOSTDINC_FLAGS) $(LINUXINCLUDE) $(KBUILD_CPPFLAGS) $(KBUILD_CFLAGS) \
	$(KBUILD_AFLAGS_KERNEL) -DMODULE -DKBUILD_MODNAME='"probe"' -DKBUILD_BASENAME='"probe"'

blkcbt-probe = $(shell $(CC) $(blkcbt-probe-flags) -S -o /dev/null $(src)/kmod/probe_$(1).c \
	>/dev/null 2>&1 && echo -DBLKCBT_HAVE_$(2))

blkcbt-probes := $(call blkcbt-probe,rw_page,RW_PAGE) \
	$(call blkcbt-probe,bdev_file,BDEV_FILE) \
	$(call blkcbt-probe,bdev_handle,BDEV_HANDLE) \
	$(call blkcbt-probe,fmode_open,FMODE_OPEN) \
	$(call blkcbt-probe,alloc_disk_limits,ALLOC_DISK_LIMITS)

# A probe that compiles wherever the flags are right: without it every other
# answer is worthless, and the build stops.
ifeq ($(call blkcbt-probe,sane,SANE),)
$(error blkcbt: $(src)/kmod/probe_sane.c does not compile with this kernel's flags; are its headers complete?)
endif
