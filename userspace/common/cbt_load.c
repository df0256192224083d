/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cbt_load: loading the kernel module with libkmod. Called by the agent at its start. The message
 * of a failure says what stands in the way (signature, other kernel, not installed, rights).
 */
#include "cbt.h"
#include "module_load.h"

#include <errno.h>
#include <libkmod.h>
#include <stdio.h>
#include <string.h>

static const char *load_remedy(int error)
{
	switch (-error) {
	case ENOENT:
		return "install the module's package for this kernel, or run depmod";
	case EPERM:
	case EACCES:
		return "run as root (CAP_SYS_MODULE); see also kernel.modules_disabled and "
		       "lockdown";
	case EKEYREJECTED:
	case ENOKEY:
		return "Secure Boot is on: sign the module with an enrolled key";
	case ENOEXEC:
		return "it was built for another kernel: rebuild it (dkms autoinstall); see dmesg";
	default:
		return "see dmesg";
	}
}

static int load_path(struct kmod_ctx *context, const char *path)
{
	struct kmod_module *module = NULL;
	int error = kmod_module_new_from_path(context, path, &module);

	if (!error)
		error = kmod_module_insert_module(module, 0, NULL);
	kmod_module_unref(module);
	return error;
}

/* In the kernel already, however it came there: then nothing on disk matters. */
static bool loaded(struct kmod_ctx *context)
{
	struct kmod_module *module = NULL;
	int state = -1;

	if (!kmod_module_new_from_name(context, BLKCBT_GENL_NAME, &module))
		state = kmod_module_get_initstate(module);
	kmod_module_unref(module);
	return state == KMOD_MODULE_LIVE || state == KMOD_MODULE_BUILTIN;
}

int cbt_load(const char *path, char *error_text, size_t error_bytes)
{
	struct kmod_ctx *context = kmod_new(NULL, NULL);
	int error;

	if (error_bytes)
		error_text[0] = '\0';
	if (!context) {
		snprintf(error_text, error_bytes,
			 "module blkcbt: cannot load: libkmod did not start");
		return -ENOMEM;
	}
	kmod_set_log_priority(context, 0); /* what is to be said is said here */
	error = loaded(context) ? 0 : path ? load_path(context, path) : module_load(context, BLKCBT_GENL_NAME);
	kmod_unref(context);
	if (error == -EEXIST)
		error = 0;
	if (error)
		snprintf(error_text, error_bytes, "module %s: cannot load: %s (%s)",
			 path ? path : "blkcbt", strerror(-error), load_remedy(error));
	return error;
}
