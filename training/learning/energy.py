"""Energy and CO2 of a training, measured by codecarbon without a network."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator

from training.data.sources import DataError


class EnergyMeter:
    """Measures the machines that a run uses, epoch by epoch, so that a resumed run counts on.

    One process of each machine measures all of it. Where the hardware has no counter that may be read, codecarbon
    estimates from the load of the processor.
    """

    def __init__(self, country: str, accelerator: Accelerator):
        """Prepare to measure; `country` is a three-letter code, as DEU.

        Raises:
            DataError: codecarbon is not installed, or does not know the country.
        """
        try:
            from codecarbon import OfflineEmissionsTracker  # optional: only needed here
            from codecarbon.input import DataSource
        except ImportError as error:
            raise DataError("--country needs codecarbon. Install it with: pip install codecarbon") from error
        if country not in DataSource().get_global_energy_mix_data():
            raise DataError(f"--country {country} is not known. Use a three-letter code such as DEU, FRA or USA.")
        self._accelerator, self._tracker = accelerator, None
        if accelerator.is_local_main_process:
            self._tracker = OfflineEmissionsTracker(
                country_iso_code=country, output_methods=[], log_level="error", allow_multiple_runs=True
            )

    @contextmanager
    def measuring(self, row: dict) -> Iterator[None]:
        """Add `energy_kwh` and `co2_kg` of what happens inside to `row`, summed over the machines."""
        if self._tracker is not None:
            self._tracker.start_task()
        yield
        used = torch.zeros(2, device=self._accelerator.device)
        if self._tracker is not None:
            measured = self._tracker.stop_task()
            used += torch.tensor([measured.energy_consumed, measured.emissions], device=used.device)
        row["energy_kwh"], row["co2_kg"] = self._accelerator.reduce(used).tolist()
