// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * config: see config.h. The table below is the whole truth about the keys.
 */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conf.h"
#include "control.h"
#include "linux/blkcbt.h"
#include "util.h"

static const char *const commit_choices[] = { "applied", "spooled", NULL };
static const char *const io_choices[] = { "auto", "io_uring", "libaio", NULL };

#define AT(field) offsetof(struct config, field)

static const struct conf_key keys[] = {
	{ "agent", "process_server", CONF_STRING, AT(process_server), "127.0.0.1:9911", 0, 0, NULL,
	  "address of the process server, host:port" },
	{ "agent", "machine_id", CONF_STRING, AT(machine_id), NULL, 0, 0, NULL,
	  "uuid of this machine; default: derived from /etc/machine-id" },
	{ "agent", "host", CONF_STRING, AT(host), NULL, 0, 0, NULL,
	  "name shown to people; default: the host name" },
	{ "agent", "state_dir", CONF_STRING, AT(state_dir), "/var/lib/reprotect/agent", 0, 0, NULL,
	  "where the agent remembers its disks" },
	{ "agent", "control", CONF_STRING, AT(control), CONTROL_DIR "/agent.sock", 0, 0, NULL,
	  "control socket" },
	{ "agent", "module", CONF_STRING, AT(module), NULL, 0, 0, NULL,
	  "path of blkcbt.ko; default: looked up by modprobe's rules" },
	{ "agent", "epoch_interval", CONF_MS, AT(interval_ms), "5s", 100, 3600000, NULL,
	  "time between cuts" },
	{ "agent", "consistent", CONF_BOOL, AT(consistent), "yes", 0, 0, NULL,
	  "read epochs as the disks were at the cut, except to catch up" },
	{ "agent", "preserve_budget", CONF_BYTES, AT(preserve_budget), "64M", MIB, 64 * GIB, NULL,
	  "kernel memory for what is overwritten before it was read" },
	{ "agent", "app_tag_interval", CONF_MS, AT(app_tag_interval_ms), "60min", 0, 30ull * 86400000,
	  NULL, "time between application tags; 0: only by command" },
	{ "agent", "app_dir", CONF_STRING, AT(app_dir), "/etc/reprotect/app.d", 0, 0, NULL,
	  "directory of the scripts that prepare applications for a tag" },
	{ "agent", "script_timeout", CONF_MS, AT(script_timeout_ms), "30s", 100, 3600000, NULL,
	  "how long one such script may take" },
	{ "agent", "freeze_timeout", CONF_MS, AT(freeze_timeout_ms), "10s", 100, 60000, NULL,
	  "how long the filesystems may be frozen for an application tag" },
	{ "agent", "freeze_skip", CONF_STRING, AT(freeze_skip), NULL, 0, 0, NULL,
	  "mount points not to freeze for an application tag, e.g. /boot/efi" },
	{ "agent", "ack_timeout", CONF_MS, AT(ack_timeout_ms), "30min", 1000, 86400000, NULL,
	  "how long to wait for the acknowledgement of an epoch" },
	{ "agent", "commit_on", CONF_CHOICE, AT(commit_on), "applied", 0, 0, commit_choices,
	  "forget an epoch when it is applied (on the target) or spooled (on the process server)" },
	{ "agent", "slice_bytes", CONF_BYTES, AT(slice_bytes), "256M", 4 * MIB, GIB, NULL,
	  "most bytes in one epoch" },
	{ "agent", "granule_bytes", CONF_BYTES, AT(granule_bytes), "4K", BLKCBT_GRANULE_MIN,
	  BLKCBT_GRANULE_MAX, NULL, "unit of tracking of disks that do not say otherwise" },
	{ "agent", "store", CONF_STRING, AT(store), "none", 0, 0, NULL,
	  "crash-safe store of disks that do not say otherwise: none, or auto (a file in state_dir)" },
	{ "agent", "io", CONF_CHOICE, AT(io), "auto", 0, 0, io_choices, "disk I/O engine" },
	{ "disk", "device", CONF_STRING, offsetof(struct config_disk, device), NULL, 0, 0, NULL,
	  "whole disk to replicate, e.g. /dev/vda or a path in /dev/disk/by-id" },
	{ "disk", "granule_bytes", CONF_BYTES, offsetof(struct config_disk, granule_bytes), NULL, 0,
	  0, NULL, "unit of tracking of this disk" },
	{ "disk", "store", CONF_STRING, offsetof(struct config_disk, store), NULL, 0, 0, NULL,
	  "crash-safe store of this disk: none, auto, or the path of a block device or file" },
	{ 0 },
};

static void *config_section(void *user, const char *kind, const char *name)
{
	struct config *config = user;

	if (!strcmp(kind, "agent") && !(name && *name))
		return config;
	if (strcmp(kind, "disk") != 0 || !name || !*name)
		return NULL;
	_Static_assert(offsetof(struct config_disk, name) == 0, "conf_instance() looks there");
	return conf_instance(config->disks, sizeof(config->disks[0]), AGENT_DISKS_MAX, &config->disk_count, name);
}

static const struct conf_schema schema = { keys, config_section };

static int config_granule(uint64_t granule_bytes)
{
	return granule_bytes >= BLKCBT_GRANULE_MIN && granule_bytes <= BLKCBT_GRANULE_MAX &&
	       !(granule_bytes & (granule_bytes - 1));
}

bool config_store_valid(const char *store)
{
	return !store || !strcmp(store, "none") || !strcmp(store, "auto") ||
	       (store[0] == '/' && strlen(store) < 256);
}

static int config_check(const struct config *config, const char *path, char *error,
			size_t error_bytes)
{
	if (!config_granule(config->granule_bytes)) {
		snprintf(error, error_bytes,
			 "%s: [agent] granule_bytes: must be a power of two from 4K to 1M", path);
		return -EINVAL;
	}
	if (config->store[0] == '/' || !config_store_valid(config->store)) {
		snprintf(error, error_bytes, "%s: [agent] store: must be none or auto", path);
		return -EINVAL;
	}
	for (size_t i = 0; i < config->disk_count; i++) {
		const struct config_disk *disk = &config->disks[i];

		if (!disk->device || !*disk->device) {
			snprintf(error, error_bytes,
				 "%s: [disk %s]: no device (add a line: device = /dev/...)", path,
				 disk->name);
			return -EINVAL;
		}
		if (disk->granule_bytes && !config_granule(disk->granule_bytes)) {
			snprintf(error, error_bytes,
				 "%s: [disk %s] granule_bytes: must be a power of two from 4K to 1M",
				 path, disk->name);
			return -EINVAL;
		}
		if (!config_store_valid(disk->store)) {
			snprintf(error, error_bytes, "%s: [disk %s] store: must be none, auto, or an absolute path",
				 path, disk->name);
			return -EINVAL;
		}
		for (size_t j = 0; j < i; j++)
			if (!strcmp(config->disks[j].device, disk->device)) {
				snprintf(error, error_bytes,
					 "%s: [disk %s] and [disk %s] name the same device %s", path,
					 config->disks[j].name, disk->name, disk->device);
				return -EINVAL;
			}
	}
	return 0;
}

int config_load(struct config *config, const char *path, char *error, size_t error_bytes)
{
	const char *name = path ? path : AGENT_CONFIG_PATH;
	int rc;

	memset(config, 0, sizeof(*config));
	if (!path && access(name, F_OK) < 0 && errno == ENOENT)
		rc = 0;
	else
		rc = conf_load(&schema, name, config, error, error_bytes);
	if (!rc && !config->process_server) /* no file, or no such section in it */
		conf_defaults(&schema, "agent", config);
	if (!rc)
		rc = config_check(config, name, error, error_bytes);
	return rc;
}

void config_free(struct config *config)
{
	for (size_t i = 0; i < config->disk_count; i++) {
		conf_free(&schema, "disk", &config->disks[i]);
		free(config->disks[i].name);
	}
	conf_free(&schema, "agent", config);
}
