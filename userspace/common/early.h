/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * early: what the agent and reprotect-early tell each other across a boot: the list of
 * disks to attach before the root file system is mounted (early.conf, written by the agent,
 * taken into the initramfs by its hook) and the report of what came of it.
 */
#ifndef REPROTECT_EARLY_H
#define REPROTECT_EARLY_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "disk_names.h"

#define EARLY_CONF_NAME "early.conf"			/* in the agent's state directory */
#define EARLY_CONF_PATH "/etc/reprotect/early.conf"	/* in the initramfs */
#define EARLY_REPORT_PATH "/run/reprotect/early.json"
#define EARLY_DISKS_MAX 64

/**
 * struct early_disk - one disk to attach
 * @device: as the agent was told
 * @names: what it is found by; @device only when all of these are empty
 * @granule_bytes: 0: the module's default
 * @store: block device or file with the disk's crash-safe store, NULL: none
 * @identity: the disk's name in its store
 * @store_device, @store_offset: the block device where the store begins, and at which byte of it
 */
struct early_disk {
	char *name;
	char *device;
	struct disk_names names;
	uint64_t granule_bytes;
	char *store, *identity, *store_device;
	uint64_t store_offset;
	char *by_id, *ptuuid, *uuid, *by_path; /* as read; @names has them afterwards */
};

/**
 * struct early_conf - the list
 * @module: path of blkcbt.ko, NULL: looked up
 * @state: file of the agent that says which generation of a store is the least to be trusted
 * @wait_ms: how long to wait for disks that are not there yet, all together
 */
struct early_conf {
	char *module, *state;
	uint64_t wait_ms;
	struct early_disk disks[EARLY_DISKS_MAX];
	size_t disk_count;
};

/** early_conf_load - read @path. 0, or negative errno with a text */
int early_conf_load(struct early_conf *conf, const char *path, char *error, size_t error_bytes);
void early_conf_free(struct early_conf *conf);

/** early_conf_text - the file for @conf, malloc'ed; NULL: out of memory. Reads nothing of what load adds. */
char *early_conf_text(const struct early_conf *conf);

/** early_conf_id - 16 hex digits that tell one early.conf from another, into @out; empty when it cannot be read */
void early_conf_id(const char *path, char out[17]);

/**
 * early_report_load - the report of this boot, or NULL: there was no early attaching
 *
 * A report that was not finished, or that cannot be read, has an "error" that says so.
 */
json_t *early_report_load(const char *path);

/** early_report_disk - the entry of the attachment with this id of the kernel, or NULL */
const json_t *early_report_disk(const json_t *report, uint64_t kernel_id);

#endif
