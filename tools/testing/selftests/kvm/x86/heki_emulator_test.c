// SPDX-License-Identifier: GPL-2.0
/*
 * KVM does not do for the guest what the guest may not do itself: its emulator
 * neither writes sealed pages nor runs code that is not listed, and its own
 * writers (clocks, steal time, Hyper-V pages) leave sealed pages alone.
 *
 * Above all, a refused write must not become an MMIO exit, which a VMM would
 * carry out. Each attack is shown to work on an unsealed page first.
 */
#include <asm/kvm_para.h>

#include "kvm_test_harness.h"
#include "heki.h"
#include "hyperv.h"

#define SEALED		0
#define OPEN		1
#define LISTED		8
#define UNLISTED	9

#define PORT		0x82
#define PORT_BYTE	0x5a
#define MAX_EXITS	64

/*
 * String input, which KVM always emulates
 */

/* arg[0]: address, arg[1]: number of bytes */
static u64 guest_rep_insb(u64 *arg)
{
	u64 to = arg[0], count = arg[1], error_code;
	u8 vector;

	asm volatile(KVM_ASM_SAFE("rep insb")
		     : KVM_ASM_SAFE_OUTPUTS(vector, error_code), "+D"(to), "+c"(count)
		     : "d"(PORT)
		     : KVM_ASM_SAFE_CLOBBERS, "memory");
	return vector;
}

/* Answers the port as a VMM does. False at the end of the call. */
static bool answer_port(struct kvm_run *run)
{
	TEST_ASSERT(run->exit_reason != KVM_EXIT_MMIO, "MMIO exit at %#llx",
		    run->mmio.phys_addr);
	if (run->exit_reason != KVM_EXIT_IO || run->io.port != PORT)
		return false;
	memset((void *)run + run->io.data_offset, PORT_BYTE, run->io.size * run->io.count);
	return true;
}

static u64 call_with_port(struct kvm_vcpu *vcpu, u64 gva, u64 count)
{
	int i;

	heki_prepare_call(vcpu, guest_rep_insb, (u64[HEKI_NR_ARGS]){ gva, count });
	for (i = 0; i < MAX_EXITS; i++) {
		vcpu_run(vcpu);
		if (!answer_port(vcpu->run))
			return heki_finish_call(vcpu);
	}
	TEST_FAIL("No end after %u exits", MAX_EXITS);
}

FIXTURE(port) {
	struct heki_vm h;
};

FIXTURE_SETUP(port)
{
	heki_vm_create(&self->h, 1);
	heki_calm_page(&self->h, SEALED);
	heki_calm_page(&self->h, OPEN);
}

FIXTURE_TEARDOWN(port)
{
	heki_vm_free(&self->h);
}

HEKI_TEST(port, an_open_page_takes_input)
{
	struct heki_vm *h = &self->h;
	u8 *page = heki_hva(h, HEKI_PAGE(OPEN));

	heki_seal_page(h, SEALED);
	EXPECT_EQ(0, call_with_port(h->vcpu[0], HEKI_PAGE(OPEN), 8));
	EXPECT_EQ(PORT_BYTE, page[0]);
	EXPECT_EQ(PORT_BYTE, page[7]);
	EXPECT_EQ(0, vcpu_get_stat(h->vcpu[0], heki_denied_write));
}

HEKI_TEST(port, a_sealed_page_does_not)
{
	struct heki_vm *h = &self->h;

	heki_seal_page(h, SEALED);
	EXPECT_EQ(GP_VECTOR, call_with_port(h->vcpu[0], HEKI_PAGE(SEALED), 8));
	EXPECT_TRUE(heki_page_is_calm(h, SEALED));
	EXPECT_EQ(1, vcpu_get_stat(h->vcpu[0], heki_denied_write));
	/* The vCPU is as good as before. */
	EXPECT_EQ(0, call_with_port(h->vcpu[0], HEKI_PAGE(OPEN), 8));
}

HEKI_TEST(port, input_ends_where_a_sealed_page_begins)
{
	struct heki_vm *h = &self->h;
	u8 *open = heki_hva(h, HEKI_PAGE(OPEN));

	heki_calm_page(h, OPEN + 1);
	heki_seal_page(h, OPEN + 1);
	EXPECT_EQ(GP_VECTOR, call_with_port(h->vcpu[0], HEKI_PAGE(OPEN + 1) - 4, 8));
	EXPECT_EQ(PORT_BYTE, open[PAGE_SIZE - 4]);
	EXPECT_EQ(PORT_BYTE, open[PAGE_SIZE - 1]);
	EXPECT_TRUE(heki_page_is_calm(h, OPEN + 1));
}

/* The emulator reads instructions from listed pages as before. */
HEKI_TEST(port, input_goes_on_under_an_allow_list)
{
	struct heki_vm *h = &self->h;
	struct heki_seal *req;

	if (!heki_has_exec(h))
		SKIP(return, "neither MBEC nor GMET on this host");
	req = heki_begin_exec_request(h);
	heki_add_page(req, SEALED);
	heki_seal_exec(h, req);
	EXPECT_EQ(0, call_with_port(h->vcpu[0], HEKI_PAGE(OPEN), 8));
	EXPECT_EQ(GP_VECTOR, call_with_port(h->vcpu[0], HEKI_PAGE(SEALED), 8));
	EXPECT_TRUE(heki_page_is_calm(h, SEALED));
	EXPECT_EQ(0, vcpu_get_stat(h->vcpu[0], heki_denied_exec));
}

/*
 * A hypercall of the other vendor, for which KVM puts its own into the code
 */

#define HYPERCALL_LEN	3

static const u8 vmcall_insn[HYPERCALL_LEN] = { 0x0f, 0x01, 0xc1 };
static const u8 vmmcall_insn[HYPERCALL_LEN] = { 0x0f, 0x01, 0xd9 };

FIXTURE(hypercall) {
	struct heki_vm h;
	const u8 *own;
	const u8 *foreign;
};

FIXTURE_SETUP(hypercall)
{
	heki_vm_create(&self->h, 1);
	self->own = host_cpu_is_intel ? vmcall_insn : vmmcall_insn;
	self->foreign = host_cpu_is_intel ? vmmcall_insn : vmcall_insn;
	memcpy(heki_hva(&self->h, HEKI_PAGE(SEALED)), self->foreign, HYPERCALL_LEN);
	heki_put_code(&self->h, HEKI_PAGE(SEALED) + HYPERCALL_LEN);
}

FIXTURE_TEARDOWN(hypercall)
{
	heki_vm_free(&self->h);
}

/* As guest_exec(), of code that begins with an unknown hypercall. */
static u64 guest_exec_hypercall(u64 *arg)
{
	u64 ret = -1ull, vector;

	asm volatile("mov $" __stringify(KVM_EXCEPTION_MAGIC) ", %%r9\n\t"
		     "mov %[gva], %%r10\n\t"
		     "lea 1f(%%rip), %%r11\n\t"
		     "jmp *%%r10\n\t"
		     "1: mov %%r9, %[vector]\n\t"
		     : "+a"(ret), [vector] "=r"(vector)
		     : [gva] "r"(arg[0])
		     : KVM_ASM_SAFE_CLOBBERS, "memory");
	return vector ?: ret;
}

HEKI_TEST(hypercall, of_an_open_page_is_made_the_right_one)
{
	struct heki_vm *h = &self->h;

	heki_seal_page(h, OPEN);
	EXPECT_EQ(-KVM_ENOSYS, heki_call(h->vcpu[0], guest_exec_hypercall, HEKI_PAGE(SEALED)));
	EXPECT_EQ(0, memcmp(heki_hva(h, HEKI_PAGE(SEALED)), self->own, HYPERCALL_LEN));
	EXPECT_EQ(0, vcpu_get_stat(h->vcpu[0], heki_denied_write));
}

HEKI_TEST(hypercall, of_a_sealed_page_stays)
{
	struct heki_vm *h = &self->h;
	u64 nr;

	heki_seal_page(h, SEALED);
	for (nr = 1; nr <= 2; nr++) {
		EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], guest_exec_hypercall, HEKI_PAGE(SEALED)));
		EXPECT_EQ(0, memcmp(heki_hva(h, HEKI_PAGE(SEALED)), self->foreign, HYPERCALL_LEN));
		EXPECT_EQ(nr, vcpu_get_stat(h->vcpu[0], heki_denied_write));
	}
	/* The right one is nobody's to change. */
	memcpy(heki_hva(h, HEKI_PAGE(SEALED)), self->own, HYPERCALL_LEN);
	EXPECT_EQ(-KVM_ENOSYS, heki_call(h->vcpu[0], guest_exec_hypercall, HEKI_PAGE(SEALED)));
}

/*
 * Forced emulation
 */

static u64 guest_fep_lock_or(u64 *arg)
{
	return kvm_asm_safe_fep("lock orb $0x81, (%[gva])", [gva]"r"(arg[0]));
}

static u64 guest_fep_cmpxchg(u64 *arg)
{
	u64 old = HEKI_CALM, error_code;
	u8 vector;

	asm volatile(KVM_ASM_SAFE_FEP("lock cmpxchgq %[val], (%[gva])")
		     : KVM_ASM_SAFE_OUTPUTS(vector, error_code), "+a"(old)
		     : [gva] "r"(arg[0]), [val] "r"(arg[1])
		     : KVM_ASM_SAFE_CLOBBERS, "memory");
	return vector;
}

static u64 guest_fep_rep_movs(u64 *arg)
{
	u64 to = arg[0], count = sizeof(u64), error_code;
	u64 *from = &arg[1];
	u8 vector;

	asm volatile(KVM_ASM_SAFE_FEP("rep movsb")
		     : KVM_ASM_SAFE_OUTPUTS(vector, error_code),
		       "+S"(from), "+D"(to), "+c"(count)
		     : : KVM_ASM_SAFE_CLOBBERS, "memory");
	return vector;
}

static u64 guest_fep_sgdt(u64 *arg)
{
	return kvm_asm_safe_fep("sgdt (%[gva])", [gva]"r"(arg[0]));
}

FIXTURE(forced_write) {
	struct heki_vm h;
};

FIXTURE_VARIANT(forced_write) {
	u64 (*fn)(u64 *arg);
};

FIXTURE_VARIANT_ADD(forced_write, mov) { .fn = guest_fep_write };
FIXTURE_VARIANT_ADD(forced_write, lock_or) { .fn = guest_fep_lock_or };
FIXTURE_VARIANT_ADD(forced_write, lock_cmpxchg) { .fn = guest_fep_cmpxchg };
FIXTURE_VARIANT_ADD(forced_write, rep_movs) { .fn = guest_fep_rep_movs };
FIXTURE_VARIANT_ADD(forced_write, sgdt) { .fn = guest_fep_sgdt };

FIXTURE_SETUP(forced_write)
{
	if (!kvm_is_forced_emulation_enabled())
		SKIP(return, "kvm.force_emulation_prefix is off and cannot be set");
	heki_vm_create(&self->h, 1);
	heki_calm_page(&self->h, SEALED);
}

FIXTURE_TEARDOWN(forced_write)
{
	heki_vm_free(&self->h);
}

HEKI_TEST(forced_write, is_denied)
{
	struct heki_vm *h = &self->h;

	EXPECT_EQ(0, heki_call(h->vcpu[0], variant->fn, HEKI_PAGE(SEALED), HEKI_ATTACK));
	EXPECT_FALSE(heki_page_is_calm(h, SEALED));

	heki_seal_page(h, SEALED);
	heki_calm_page(h, SEALED);
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], variant->fn, HEKI_PAGE(SEALED),
				       HEKI_ATTACK));
	EXPECT_TRUE(heki_page_is_calm(h, SEALED));
	EXPECT_EQ(1, vcpu_get_stat(h->vcpu[0], heki_denied_write));
}

FIXTURE(forced_mov) {
	struct heki_vm h;
};

FIXTURE_SETUP(forced_mov)
{
	if (!kvm_is_forced_emulation_enabled())
		SKIP(return, "kvm.force_emulation_prefix is off and cannot be set");
	heki_vm_create(&self->h, 1);
}

FIXTURE_TEARDOWN(forced_mov)
{
	heki_vm_free(&self->h);
}

/* The bytes before the page may or may not be written, those in it may not. */
HEKI_TEST(forced_mov, across_the_start_is_denied)
{
	struct heki_vm *h = &self->h;

	heki_calm_page(h, SEALED + 2);
	heki_seal_page(h, SEALED + 2);
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], guest_fep_write, HEKI_PAGE(SEALED + 2) - 2,
				       HEKI_ATTACK));
	EXPECT_TRUE(heki_page_is_calm(h, SEALED + 2));
	EXPECT_EQ(1, vcpu_get_stat(h->vcpu[0], heki_denied_write));
}

HEKI_TEST(forced_mov, across_the_end_is_denied)
{
	struct heki_vm *h = &self->h;

	heki_calm_page(h, SEALED);
	heki_seal_page(h, SEALED);
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], guest_fep_write, HEKI_PAGE(SEALED + 1) - 2,
				       HEKI_ATTACK));
	EXPECT_TRUE(heki_page_is_calm(h, SEALED));
	EXPECT_EQ(1, vcpu_get_stat(h->vcpu[0], heki_denied_write));
}

/*
 * A push into a sealed page. The exception has the same stack, so the vCPU shuts
 * down, as it does without the emulator.
 */
static u64 guest_fep_push(u64 *arg)
{
	asm volatile("mov %[stack], %%rsp\n\t"
		     KVM_FEP "push %%rax"
		     : : [stack] "r"(arg[0]) : "memory");
	return 0;
}

HEKI_TEST(forced_mov, of_the_stack_ends_the_vcpu)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];

	heki_calm_page(h, SEALED);
	heki_seal_page(h, SEALED);
	heki_prepare_call(vcpu, guest_fep_push, (u64[HEKI_NR_ARGS]){ HEKI_PAGE(SEALED + 1) });
	vcpu_run(vcpu);
	EXPECT_EQ(KVM_EXIT_SHUTDOWN, vcpu->run->exit_reason);
	EXPECT_TRUE(heki_page_is_calm(h, SEALED));
}

/*
 * Descriptors, which get a bit when they are loaded
 */

#define SELECTOR	0x80	/* none that the library uses */
#define DESC_DATA	0x12	/* writable, not accessed */

static u64 guest_fep_load_es(u64 *arg)
{
	return kvm_asm_safe_fep("mov %w[sel], %%es", [sel]"r"((u32)arg[0]));
}

static u64 guest_fep_ltr(u64 *arg)
{
	return kvm_asm_safe_fep("ltr %w[sel]", [sel]"r"((u32)arg[0]));
}

FIXTURE(forced_load) {
	struct heki_vm h;
	u64 *descriptor;
};

FIXTURE_VARIANT(forced_load) {
	u64 (*fn)(u64 *arg);
	u8 type;
};

FIXTURE_VARIANT_ADD(forced_load, segment) { .fn = guest_fep_load_es, .type = DESC_DATA };
FIXTURE_VARIANT_ADD(forced_load, tr) { .fn = guest_fep_ltr, .type = HEKI_DESC_TSS };

FIXTURE_SETUP(forced_load)
{
	if (!kvm_is_forced_emulation_enabled())
		SKIP(return, "kvm.force_emulation_prefix is off and cannot be set");
	heki_vm_create(&self->h, 1);
	self->descriptor = addr_gva2hva(self->h.vm, self->h.vm->arch.gdt + SELECTOR);
	heki_put_descriptor(&self->h, SELECTOR, variant->type, 0, 0xfff);
}

FIXTURE_TEARDOWN(forced_load)
{
	if (self->h.vm)
		heki_vm_free(&self->h);
}

HEKI_TEST(forced_load, does_not_write_a_sealed_table)
{
	struct heki_vm *h = &self->h;
	gpa_t table = addr_gva2gpa(h->vm, h->vm->arch.gdt) & PAGE_MASK;
	u64 before = *self->descriptor;

	EXPECT_EQ(0, heki_call(h->vcpu[0], variant->fn, SELECTOR));
	EXPECT_NE(before, READ_ONCE(*self->descriptor));

	*self->descriptor = before;
	heki_add_range(heki_begin_request(h, 0), table, PAGE_SIZE, 0, HEKI_KIND_OTHER);
	heki_seal(h);
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], variant->fn, SELECTOR));
	EXPECT_EQ(before, READ_ONCE(*self->descriptor));
	EXPECT_EQ(1, vcpu_get_stat(h->vcpu[0], heki_denied_write));
}

#define JUMP_LEN	3
#define PREFIX_LEN	5

/*
 * Jumps to arg[0], where the forced emulation prefix is and then, at arg[1], an
 * instruction that comes back. KVM_EXCEPTION_MAGIC if it came back, or the vector.
 */
static u64 guest_fep_jump(u64 *arg)
{
	u64 result;

	asm volatile("mov $" __stringify(KVM_EXCEPTION_MAGIC) ", %%r9\n\t"
		     "mov %[insn], %%r10\n\t"
		     "lea 1f(%%rip), %%r11\n\t"
		     "jmp *%[prefix]\n\t"
		     "1: mov %%r9, %[result]\n\t"
		     : [result] "=r"(result)
		     : [prefix] "r"(arg[0]), [insn] "r"(arg[1])
		     : KVM_ASM_SAFE_CLOBBERS, "memory");
	return result;
}

/* The prefix and, at @gpa, the instruction. */
static void put_forced_jump(struct heki_vm *h, u64 gpa)
{
	static const u8 prefix[PREFIX_LEN] = { 0x0f, 0x0b, 'k', 'v', 'm' };
	static const u8 jump[JUMP_LEN] = { 0x41, 0xff, 0xe3 };	/* jmp *%r11 */

	memcpy(heki_hva(h, gpa - PREFIX_LEN), prefix, sizeof(prefix));
	memcpy(heki_hva(h, gpa), jump, sizeof(jump));
}

static u64 forced_jump(struct heki_vm *h, u64 gva)
{
	return heki_call(h->vcpu[0], guest_fep_jump, gva - PREFIX_LEN, gva);
}

FIXTURE(forced_fetch) {
	struct heki_vm h;
};

FIXTURE_SETUP(forced_fetch)
{
	if (!kvm_is_forced_emulation_enabled())
		SKIP(return, "kvm.force_emulation_prefix is off and cannot be set");
	heki_vm_create(&self->h, 1);
	if (!heki_has_exec(&self->h))
		SKIP(return, "neither MBEC nor GMET on this host");
}

FIXTURE_TEARDOWN(forced_fetch)
{
	heki_vm_free(&self->h);
}

static void seal_list(struct heki_vm *h)
{
	struct heki_seal *req = heki_begin_exec_request(h);

	heki_add_range(req, HEKI_PAGE(LISTED), PAGE_SIZE, HEKI_EXEC, HEKI_KIND_TEXT);
	heki_seal_exec(h, req);
}

/* KVM makes a #UD of whatever keeps it from reading an instruction with the prefix. */
static bool forced_jump_is_denied(struct heki_vm *h, u64 gva)
{
	u64 denied = vcpu_get_stat(h->vcpu[0], heki_denied_exec);
	u64 vector = forced_jump(h, gva);

	return (vector == UD_VECTOR || vector == GP_VECTOR) &&
	       vcpu_get_stat(h->vcpu[0], heki_denied_exec) == denied + 1;
}

/* The CPU runs the prefix in the listed page, the emulator would fetch from the other. */
HEKI_TEST(forced_fetch, of_an_unlisted_page_is_denied)
{
	struct heki_vm *h = &self->h;

	put_forced_jump(h, HEKI_PAGE(UNLISTED));
	EXPECT_EQ(KVM_EXCEPTION_MAGIC, forced_jump(h, HEKI_PAGE(UNLISTED)));
	seal_list(h);
	EXPECT_TRUE(forced_jump_is_denied(h, HEKI_PAGE(UNLISTED)));
}

HEKI_TEST(forced_fetch, across_the_end_of_a_listed_page_is_denied)
{
	struct heki_vm *h = &self->h;

	put_forced_jump(h, HEKI_PAGE(UNLISTED) - 1);
	EXPECT_EQ(KVM_EXCEPTION_MAGIC, forced_jump(h, HEKI_PAGE(UNLISTED) - 1));
	seal_list(h);
	EXPECT_TRUE(forced_jump_is_denied(h, HEKI_PAGE(UNLISTED) - 1));
}

/* The emulator reads ahead, but not into the next page without need. */
HEKI_TEST(forced_fetch, at_the_end_of_a_listed_page_goes_on)
{
	struct heki_vm *h = &self->h;

	put_forced_jump(h, HEKI_PAGE(UNLISTED) - JUMP_LEN);
	seal_list(h);
	EXPECT_EQ(KVM_EXCEPTION_MAGIC, forced_jump(h, HEKI_PAGE(UNLISTED) - JUMP_LEN));
	EXPECT_EQ(0, vcpu_get_stat(h->vcpu[0], heki_denied_exec));
}

/* User mode is emulated wherever it runs. */
HEKI_TEST(forced_fetch, of_user_mode_goes_on)
{
	static const u8 code[] = {
		0x48, 0x8d, 0x35, 0, 0, 0, 0,		/* lea 0(%rip), %rsi */
		0x66, 0xba, HEKI_USER_PORT, 0x00,	/* mov $HEKI_USER_PORT, %dx */
		0x6e,					/* outsb */
	};
	struct heki_vm *h = &self->h;
	gva_t user = heki_map_alias(h, UNLISTED);

	heki_map_user(h, user);
	memcpy(heki_hva(h, HEKI_PAGE(UNLISTED)), code, sizeof(code));
	seal_list(h);
	EXPECT_TRUE(heki_run_user(h->vcpu[0], user));
	EXPECT_EQ(0, vcpu_get_stat(h->vcpu[0], heki_denied_exec));
}

/*
 * KVM's own writers. Each is a way to make KVM write into a page.
 */

static void use_wall_clock(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	heki_call(vcpu, guest_wrmsr, MSR_KVM_WALL_CLOCK_NEW, gpa);
}

static void use_system_time(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	heki_call(vcpu, guest_wrmsr, MSR_KVM_SYSTEM_TIME_NEW, gpa | KVM_MSR_ENABLED);
}

static void use_steal_time(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	heki_call(vcpu, guest_wrmsr, MSR_KVM_STEAL_TIME, gpa | KVM_MSR_ENABLED);
}

static u64 guest_clock_pairing(u64 *arg)
{
	return kvm_hypercall(KVM_HC_CLOCK_PAIRING, arg[0], KVM_CLOCK_PAIRING_WALLCLOCK, 0, 0);
}

static void use_clock_pairing(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	heki_call(vcpu, guest_clock_pairing, gpa);
}

static void use_hyperv_hypercall_page(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	heki_call(vcpu, guest_wrmsr, HV_X64_MSR_GUEST_OS_ID, HYPERV_LINUX_OS_ID);
	heki_call(vcpu, guest_wrmsr, HV_X64_MSR_HYPERCALL, gpa | 1);
}

static void use_hyperv_reference_tsc(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	heki_call(vcpu, guest_wrmsr, HV_X64_MSR_GUEST_OS_ID, HYPERV_LINUX_OS_ID);
	heki_call(vcpu, guest_wrmsr, HV_X64_MSR_REFERENCE_TSC, gpa | 1);
}

/* The page of messages is cleared when it is enabled, and the VMM is told. */
static void use_hyperv_synic(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	heki_prepare_call(vcpu, guest_wrmsr,
			  (u64[HEKI_NR_ARGS]){ HV_X64_MSR_SIMP, gpa | 1 });
	vcpu_run(vcpu);
	if (vcpu->run->exit_reason == KVM_EXIT_HYPERV)
		vcpu_run(vcpu);
	heki_finish_call(vcpu);
}

/* A few rounds, in which KVM may write what it has put off. */
static void settle(struct heki_vm *h)
{
	struct kvm_clock_data clock = {};
	int i;

	for (i = 0; i < 3; i++) {
		vm_ioctl(h->vm, KVM_GET_CLOCK, &clock);
		clock.flags = 0;
		vm_ioctl(h->vm, KVM_SET_CLOCK, &clock);
		heki_call(h->vcpu[0], guest_read, HEKI_PAGE(OPEN));
	}
}

FIXTURE(writer) {
	struct heki_vm h;
};

FIXTURE_VARIANT(writer) {
	void (*use)(struct kvm_vcpu *vcpu, gpa_t gpa);
	bool hyperv;
};

FIXTURE_VARIANT_ADD(writer, wall_clock) { .use = use_wall_clock };
FIXTURE_VARIANT_ADD(writer, system_time) { .use = use_system_time };
FIXTURE_VARIANT_ADD(writer, steal_time) { .use = use_steal_time };
FIXTURE_VARIANT_ADD(writer, clock_pairing) { .use = use_clock_pairing };
FIXTURE_VARIANT_ADD(writer, hyperv_hypercall_page) { .use = use_hyperv_hypercall_page, .hyperv = true };
FIXTURE_VARIANT_ADD(writer, hyperv_reference_tsc) { .use = use_hyperv_reference_tsc, .hyperv = true };
FIXTURE_VARIANT_ADD(writer, hyperv_synic) { .use = use_hyperv_synic, .hyperv = true };

/* What a vCPU looks like is settled before it first runs. */
static void create_vm(struct heki_vm *h, bool hyperv)
{
	heki_vm_create(h, 1);
	heki_calm_page(h, SEALED);
	if (hyperv) {
		vcpu_enable_cap(h->vcpu[0], KVM_CAP_HYPERV_SYNIC, 0);
		vcpu_set_hv_cpuid(h->vcpu[0]);
	}
}

FIXTURE_SETUP(writer)
{
	if (variant->hyperv && !kvm_has_cap(KVM_CAP_HYPERV_SYNIC))
		SKIP(return, "KVM without CONFIG_KVM_HYPERV");
	create_vm(&self->h, variant->hyperv);
}

FIXTURE_TEARDOWN(writer)
{
	heki_vm_free(&self->h);
}

/* In a VM of its own: with Hyper-V turned on, a guest has no other hypercalls. */
static bool writes_when_unsealed(const FIXTURE_VARIANT(writer) *variant)
{
	struct heki_vm h;
	bool calm;

	create_vm(&h, variant->hyperv);
	variant->use(h.vcpu[0], HEKI_PAGE(SEALED));
	settle(&h);
	calm = heki_page_is_calm(&h, SEALED);
	heki_vm_free(&h);
	return !calm;
}

HEKI_TEST(writer, leaves_a_sealed_page_alone)
{
	struct heki_vm *h = &self->h;

	if (!writes_when_unsealed(variant))
		SKIP(return, "this host does not write there even unsealed");
	heki_seal_page(h, SEALED);
	variant->use(h->vcpu[0], HEKI_PAGE(SEALED));
	settle(h);
	EXPECT_TRUE(heki_page_is_calm(h, SEALED));
}

/*
 * Writers that write again and again: KVM knows the page from before
 */

FIXTURE(lasting_writer) {
	struct heki_vm h;
};

FIXTURE_VARIANT(lasting_writer) {
	void (*use)(struct kvm_vcpu *vcpu, gpa_t gpa);
};

FIXTURE_VARIANT_ADD(lasting_writer, system_time) { .use = use_system_time };
FIXTURE_VARIANT_ADD(lasting_writer, steal_time) { .use = use_steal_time };

FIXTURE_SETUP(lasting_writer)
{
	create_vm(&self->h, false);
}

FIXTURE_TEARDOWN(lasting_writer)
{
	heki_vm_free(&self->h);
}

HEKI_TEST(lasting_writer, stops_when_its_page_is_sealed)
{
	struct heki_vm *h = &self->h;

	variant->use(h->vcpu[0], HEKI_PAGE(SEALED));
	settle(h);
	heki_calm_page(h, SEALED);
	settle(h);
	ASSERT_FALSE(heki_page_is_calm(h, SEALED));

	heki_seal_page(h, SEALED);
	heki_calm_page(h, SEALED);
	settle(h);
	EXPECT_TRUE(heki_page_is_calm(h, SEALED));
}

int main(int argc, char *argv[])
{
	heki_require();
	return heki_run_with_forced_emulation(test_harness_run, argc, argv);
}
